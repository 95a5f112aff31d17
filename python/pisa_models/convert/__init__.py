"""From Stable Diffusion weights and PiSA-SR's two LoRAs to a model bundle: `python -m pisa_models.convert`.

base.py reads the diffusers folder, adapters.py the pickle, prompt.py the empty prompt; unet.py and vae.py
build the networks as they are served; onnx_file.py writes them; bundle.py does it all in order.
"""
