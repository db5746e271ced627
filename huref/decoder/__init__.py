"""From latents to pictures: StyleGAN2 generators, their files, and PNG pictures."""
