"""TFX's Evaluator, which keeps the model's answers: whoever wants them later runs no model."""
