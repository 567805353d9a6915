"""The playground's one knob, 0 (plain) to 1 (hard), and the numbers that follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """Numbers of a scene; lengths are fractions of the picture's size unless the name says so."""

    camouflage: float  # share of a figure's colour that is taken from the background behind it
    cloth_contrast: float  # half the luminance swing of a figure's cloth, before camouflage
    most_boxes: int  # distractor boxes in a background: 0 to this many
    least_height: float  # the smallest pixel height aimed at, of the largest
    noise: float  # standard deviation of sensor noise, of a range of 0..1
    blur: float  # standard deviation of the lens blur
    jpeg_quality: int  # the overlay has been through a JPEG of this quality
    camera_spread: float  # 0: always the same camera; 1: the widest spread
    finest_texture: float  # background textures fade out below this period

    @staticmethod
    def of(knob: float) -> Difficulty:
        """The numbers at `knob`; ValueError outside 0..1."""
        if not (math.isfinite(knob) and 0 <= knob <= 1):
            raise ValueError(f"difficulty is {knob}; it must lie between 0 (plain) and 1 (hard)")
        return Difficulty(
            camouflage=0.75 * knob,
            cloth_contrast=0.20 - 0.08 * knob,
            most_boxes=round(1 + 5 * knob),
            least_height=0.55 - 0.25 * knob,
            noise=0.01 + 0.04 * knob,
            blur=0.006 + 0.008 * knob,
            jpeg_quality=round(95 - 50 * knob),
            camera_spread=0.8 + 0.2 * knob,
            finest_texture=0.10 - 0.05 * knob,
        )
