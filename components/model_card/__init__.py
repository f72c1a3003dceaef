"""What is known about a trained model: facts for programs and a model card for people.

`facts` gathers the outputs of training, data gate and Evaluator; `card` writes them as Markdown and
HTML. Reports and run listings read the same facts.
"""
