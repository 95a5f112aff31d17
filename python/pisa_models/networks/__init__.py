"""The networks: autoencoder, UNet with its two LoRAs, one file each."""
