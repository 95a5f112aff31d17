"""What the converter is judged by: random models with the official names, and the plain pipeline.

random_model.py makes Stable Diffusion and PiSA-SR's pickle in any size; plain_pipeline.py is diffusers and
peft alone, as the official code uses them, and nothing of pisa_models.convert.
"""
