"""The VAE's own tiling, for pictures that would need too much memory in one piece."""

from __future__ import annotations

from typing import Any

# Pictures over so many pixels are coded in tiles. By size alone, so that a seed gives the same picture whatever else
# runs.
TILED_PIXELS = 2048 * 1536


def tile_large(vae: Any, factor: int, pixels: int = TILED_PIXELS) -> None:
    """Have ``vae`` code pictures over ``pixels`` in tiles, and smaller ones in one piece. Without effect on VAEs that
    know no tiles, and on None.

    ``factor``: pixels to one latent pixel, along a side. Decided at each call: drawings of several sizes take turns.
    """
    if not hasattr(vae, "use_tiling"):
        return
    encode, decode = vae.encode, vae.decode

    def encode_by_size(x: Any, *rest: Any, **keywords: Any) -> Any:
        vae.use_tiling = x.shape[-2] * x.shape[-1] > pixels
        return encode(x, *rest, **keywords)

    def decode_by_size(z: Any, *rest: Any, **keywords: Any) -> Any:
        vae.use_tiling = z.shape[-2] * z.shape[-1] * factor**2 > pixels
        return decode(z, *rest, **keywords)

    vae.encode, vae.decode = encode_by_size, decode_by_size
