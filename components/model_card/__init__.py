"""What is known of a trained model, as facts for programs and as a model card for people.

`facts` gathers what training, data gate and Evaluator left; `card` writes it as Markdown and HTML.
The report of a run and the inspection of runs read the same facts.
"""
