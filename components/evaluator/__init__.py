"""TFX's Evaluator, keeping the model's answers so that later steps need not run it again."""
