"""A small diffusion model that draws coloured shapes as told, and the scorer that checks whether it did."""
