"""Curated colours: each palette is one mood, chosen by hand so that any two of its colours go together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Palette:
    """sRGB hex colours.

    wall, other_wall, floor, floor_second: large surfaces.  wood, dark, light: of furniture and frames.
    accents: at least five, for what shall be noticed.  leaf, grass: plants.  zenith, horizon: sky.
    sun, shade: colours of direct and of soft light.
    """

    name: str
    wall: str
    other_wall: str
    floor: str
    floor_second: str
    wood: str
    dark: str
    light: str
    accents: tuple[str, ...]
    leaf: str
    grass: str
    zenith: str
    horizon: str
    sun: str
    shade: str


PALETTES = (
    Palette(
        "apricot morning", "#f3d9c4", "#e8b29a", "#c98f66", "#bd8259", "#a8693f", "#4a3a3f", "#fbf3e6",
        ("#e4572e", "#2e86ab", "#f2b134", "#6a994e", "#9d4edd", "#d1495b"), "#5f9e57", "#9cc56f",
        "#5aa6dd", "#fbe6cf", "#fff0d2", "#dfe6f2",
    ),
    Palette(
        "sage and clay", "#dfe5d2", "#a9bfa0", "#cfa37c", "#c3956c", "#8c5e3c", "#37423d", "#f7f4ea",
        ("#c8553d", "#f28f3b", "#588b8b", "#ffd5c2", "#2d6a4f", "#b56576"), "#4f8a5b", "#8fb96a",
        "#7cc0d8", "#f3efdd", "#fff2d0", "#dbe9e4",
    ),
    Palette(
        "blue hour", "#b9c6e4", "#8a97c9", "#6f6a95", "#65608a", "#7a5c61", "#2b2d42", "#eef0fb",
        ("#ff9f6e", "#ffd166", "#ef476f", "#4cc9f0", "#b388eb", "#f4f1de"), "#4d8b83", "#6b9a86",
        "#33408a", "#f7a88b", "#ffd9b8", "#b9c4f0",
    ),
    Palette(
        "mint gallery", "#e3f1ea", "#b5dccb", "#e6ddd0", "#dad0c1", "#c79a6b", "#30414a", "#ffffff",
        ("#ff6b6b", "#ffd93d", "#4d96ff", "#6bcb77", "#845ec2", "#ff9671"), "#58a777", "#a3d07f",
        "#69b8e8", "#eaf6f6", "#fff6dd", "#e2eef5",
    ),
    Palette(
        "rose terrace", "#f6d5d8", "#dd9aa6", "#d9b79a", "#cfaa8b", "#9b6a53", "#513b48", "#fdf1ee",
        ("#3d5a80", "#ee6c4d", "#98c1d9", "#ffe066", "#81b29a", "#c9184a"), "#6b9f71", "#a7c07a",
        "#8ab6e0", "#fde2dc", "#ffe7cf", "#ead9ea",
    ),
    Palette(
        "ochre studio", "#efe0bd", "#d8b365", "#8d6e56", "#82644d", "#6e4a33", "#33302e", "#fbf5e3",
        ("#1b4965", "#ca6702", "#5fa8d3", "#9b2226", "#94d2bd", "#e9c46a"), "#6a8d4f", "#a6b05f",
        "#6fb1d0", "#fbeecb", "#fff0c8", "#dfe3df",
    ),
    Palette(
        "nordic winter", "#e9edf2", "#c3cfdb", "#d8c3a8", "#ccb698", "#b58b63", "#3c4a5a", "#ffffff",
        ("#e76f51", "#264653", "#f4a261", "#2a9d8f", "#e9c46a", "#7b8fb2"), "#5b8f7b", "#b6c9a8",
        "#87b9e3", "#f1f4f7", "#fff5e6", "#dfe8f5",
    ),
    Palette(
        "terracotta south", "#f4e3cf", "#d98e63", "#c4704b", "#b96743", "#8f4f2f", "#40352f", "#fdf6e9",
        ("#1d7874", "#f4c095", "#ee2e31", "#2d82b7", "#f6ae2d", "#7f9172"), "#6d9a4a", "#b3bd68",
        "#3f9fdb", "#fbe9cd", "#fff1cc", "#e3e4ea",
    ),
)  # fmt: skip
