"""What counts as the same picture. Imports no torch."""

FAMILIES = (
    "stable_diffusion",
    "stable_diffusion_xl",
    "stable_diffusion_3",
    "flux",
    "flux_2_klein",
    "z_image",
)
# The largest difference of two pictures that count as the same, in pixel values of 0..1.
SAME = 1e-4
# The same where the same numbers are added in the same order: in float32 to the last bit, or nearly.
EXACT = 1e-6
# The smallest one of two requests that must not give the same picture.
OTHER = 1e-3
