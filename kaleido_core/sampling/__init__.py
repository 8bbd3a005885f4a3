"""From noise to a clean latent: sigmas, guidance, solver."""
