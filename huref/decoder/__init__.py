"""From a Gaussian latent to a picture: a StyleGAN2 generator, and the files around it."""
