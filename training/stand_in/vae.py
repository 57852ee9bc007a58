"""A hand-made autoencoder in the TAEHV file format, so that pictures mean something before any weights are trained.

What it does: 48 latent channels hold exactly the 4x4 mean colours of a 16x16 pixel cell (as two levels of Haar
coefficients), and the decoder paints them back with a smooth, mean-preserving filter. One latent frame holds the
first frame of its group of four. Nothing here is learned; no host code is imported.

How a decoder of nearest upsampling and 3x3 convolutions can paint a different colour into each quarter of a cell:
after upsampling, the left half of a cell differs from its left neighbour and equals its right one. The first memory
block of a stage turns such differences (of eight mixtures of the codes) into is_left, is_right, is_top, is_bottom;
the second adds the Haar details of that half or quarter, gated by ReLU. Between equal cells the detail that would tell
them apart is left out, and the mean colour stays right.
"""

from __future__ import annotations

import itertools

import torch

LATENTS_MEAN = [
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
    -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
    0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
]  # fmt: skip
LATENTS_STD = [
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
]  # fmt: skip
# Source of both: Wan2.2 latent normalisation, as in the host's latent_formats.Wan22.

_COLOR_GAIN = 1.6  # a colour of 0..1 becomes a normalised latent of -0.8..0.8
_DETAIL_GAIN = 3.0
_HASHES = 8  # mixtures of the codes by which neighbouring cells are told apart
_EDGE_GAIN = 64.0  # neighbours whose mixtures differ by more than 1/64 in sum are different cells
_SHUT = 4.0  # larger than any value a closed gate must stop
_BLUR = (0.25, 0.5, 0.25)
_SHARPEN = (-0.5, 2.0, -0.5)  # _BLUR then _SHARPEN after nearest upsampling keeps the mean of every old cell
_LEFT, _RIGHT, _TOP, _BOTTOM = (0, -1), (0, 1), (-1, 0), (1, 0)
_SIDES = (_LEFT, _RIGHT, _TOP, _BOTTOM)
_BORDERS = (*_SIDES, (-1, -1), (-1, 1), (1, -1), (1, 1))  # sides and corners as (row, column) steps out of the picture
_HAAR = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 4  # rows: mean, x, y, xy

Weights = dict[str, torch.Tensor]


def stand_in_vae() -> Weights:
    """A TAEHV state dict: 48 latent channels, 16x16 pixels and 4 frames per latent cell, images in [0, 1].

    Decoded frames have exactly the 16x16 mean colours of frames 0, 4, 8, ... (to about 0.003, the bend of the host's
    tanh clamp), constant within the four frames of a latent.
    """
    weights = _empty_weights()
    _write_encoder(weights)
    _write_first_decoder_layer(weights)
    _copy(weights["decoder.7.conv.weight"], range(256))
    _write_hashed_upsampling(weights["decoder.8.weight"], kept=93, hashes=torch.eye(_HASHES, 256 - 93), first_hash=93)
    _write_side_detection(weights, "decoder.9", first_difference=93)
    _write_quarter_choice(weights, "decoder.10", first_side=93, finer_details=True)
    _copy(weights["decoder.13.conv.weight"], range(128))
    _write_hashed_upsampling(weights["decoder.14.weight"], kept=21, hashes=_detail_hashes(), first_hash=0)
    _write_side_detection(weights, "decoder.15", first_difference=21)
    weights["decoder.15.conv.4.bias"][63] = 1  # a plane of ones, zero in the padding: it shows where the picture ends
    _write_quarter_choice(weights, "decoder.16", first_side=21, finer_details=False)
    _write_border_copies(weights, "decoder.17", ones=63)
    _copy(weights["decoder.19.conv.weight"], range(64))
    _write_smoothing(weights["decoder.20.weight"])
    _write_sharpening(weights["decoder.22.weight"])
    return weights


def _empty_weights() -> Weights:
    """All tensors of the format, zero. A memory block of zeros passes non-negative values on unchanged."""
    shapes: dict[str, tuple[int, ...]] = {"encoder.0.weight": (64, 12, 3, 3), "encoder.0.bias": (64,)}
    for pool, frames in ((2, 2), (7, 2), (12, 1)):
        shapes[f"encoder.{pool}.conv.weight"] = (64, 64 * frames, 1, 1)
        shapes[f"encoder.{pool + 1}.weight"] = (64, 64, 3, 3)
        shapes |= _memory_block_shapes("encoder", pool + 2, 64)
    shapes |= {"encoder.17.weight": (48, 64, 3, 3), "encoder.17.bias": (48,)}
    shapes |= {"decoder.1.weight": (256, 48, 3, 3), "decoder.1.bias": (256,)}
    for first, width, next_width, frames in ((3, 256, 128, 1), (9, 128, 64, 2), (15, 64, 64, 2)):
        shapes |= _memory_block_shapes("decoder", first, width)
        shapes[f"decoder.{first + 4}.conv.weight"] = (width * frames, width, 1, 1)
        shapes[f"decoder.{first + 5}.weight"] = (next_width, width, 3, 3)
    shapes |= {"decoder.22.weight": (12, 64, 3, 3), "decoder.22.bias": (12,)}
    return {key: torch.zeros(shape) for key, shape in shapes.items()}


def _memory_block_shapes(side: str, first: int, width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for block, (layer, inputs) in itertools.product(range(first, first + 3), ((0, 2 * width), (2, width), (4, width))):
        shapes[f"{side}.{block}.conv.{layer}.weight"] = (width, inputs, 3, 3)
        shapes[f"{side}.{block}.conv.{layer}.bias"] = (width,)
    return shapes


def _copy(weight: torch.Tensor, channels: range, step: tuple[int, int] = (0, 0), factor: float = 1.0) -> None:
    """Make each output frame repeat `channels`; `step` is the (row, column) neighbour that is read."""
    middle = weight.shape[-1] // 2
    frames = weight.shape[0] // weight.shape[1] if weight.shape[0] > weight.shape[1] else 1
    for frame, channel in itertools.product(range(frames), channels):
        weight[frame * weight.shape[1] + channel, channel, middle + step[0], middle + step[1]] += factor


def _write_encoder(weights: Weights) -> None:
    """Means of 4x4 pixels, then space to channels twice, then Haar coefficients."""
    for color in range(3):
        weights["encoder.0.weight"][color, color * 4 : color * 4 + 4, 1, 1] = 1 / 4
        weights["encoder.3.weight"][color, color, 1:, 1:] = 1 / 4
    for pool in (2, 7, 12):
        _copy(weights[f"encoder.{pool}.conv.weight"], range(48))  # reads only the first frame of a group
    for quarter, (row, column) in enumerate(itertools.product((1, 2), (1, 2))):
        for color in range(3):
            weights["encoder.8.weight"][color * 4 + quarter, color, row, column] = 1
        for channel in range(12):
            weights["encoder.13.weight"][quarter * 12 + channel, channel, row, column] = 1
    scale, neutral = _latent_scale()
    codes = _codes_of_means()
    weights["encoder.17.weight"][:, :48, 1, 1] = scale[:, None] * codes[_code_of_channel()]
    weights["encoder.17.bias"][:] = torch.tensor(LATENTS_MEAN) - scale * neutral


def _codes_of_means() -> torch.Tensor:
    """[48 codes, 48 means]: codes are 3 colours, 9 coarse details (colour, x|y|xy), 36 fine details (quarter first).

    Means are ordered (quarter of the cell, colour, quarter of the quarter).
    """
    codes = torch.zeros(48, 4, 3, 4)
    for color in range(3):
        codes[color, :, color, :] = 1 / 16
        for detail in range(3):
            codes[3 + color * 3 + detail, :, color, :] = _HAAR[detail + 1, :, None] / 4
            for quarter in range(4):
                codes[12 + quarter * 9 + color * 3 + detail, quarter, color, :] = _HAAR[detail + 1]
    return codes.flatten(1)


def _code_of_channel() -> torch.Tensor:
    """[48] which code each latent channel carries: colours where the host's tanh clamp bends least."""
    bend = torch.tensor(LATENTS_MEAN).abs() + torch.tensor(LATENTS_STD) / 4
    return bend.argsort(stable=True).argsort(stable=True)


def _latent_scale() -> tuple[torch.Tensor, torch.Tensor]:
    """Per latent channel: raw latent per unit of code, and the code of the neutral (normalised zero) latent."""
    is_color = _code_of_channel() < 3
    scale = torch.tensor(LATENTS_STD) * torch.where(is_color, _COLOR_GAIN, _DETAIL_GAIN)
    return scale, torch.where(is_color, 0.5, 0.0)


def _write_first_decoder_layer(weights: Weights) -> None:
    """Latents to colours (0..2), positive and negative parts of 9 + 36 details (3..92), mixtures of all (93..100)."""
    scale, neutral = _latent_scale()
    clamped = 3 * torch.tanh(torch.tensor(LATENTS_MEAN) / 3)
    slope = 1 - (clamped / 3) ** 2
    to_codes, offset = torch.zeros(48, 48), torch.zeros(48)
    to_codes[_code_of_channel(), torch.arange(48)] = 1 / (scale * slope)
    offset[_code_of_channel()] = neutral - clamped / (scale * slope)
    weight, bias = weights["decoder.1.weight"], weights["decoder.1.bias"]
    weight[:3, :, 1, 1], bias[:3] = to_codes[:3], offset[:3]
    for sign, first in ((1, 3), (-1, 4)):
        weight[first:93:2, :, 1, 1], bias[first:93:2] = sign * to_codes[3:], sign * offset[3:]
    mixtures = _random((_HASHES, 48), seed=1)
    weight[93 : 93 + _HASHES, :, 1, 1] = mixtures @ to_codes
    bias[93 : 93 + _HASHES] = mixtures @ offset + 4  # the ReLU behind must not cut them


def _detail_hashes() -> torch.Tensor:
    """[8, 128] mixtures of 3 colours and 9 details given as positive and negative parts."""
    mixtures, hashes = _random((_HASHES, 12), seed=2), torch.zeros(_HASHES, 128)
    hashes[:, :3], hashes[:, 3:21:2], hashes[:, 4:21:2] = mixtures[:, :3], mixtures[:, 3:], -mixtures[:, 3:]
    return hashes


def _random(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def _write_hashed_upsampling(weight: torch.Tensor, *, kept: int, hashes: torch.Tensor, first_hash: int) -> None:
    """Keep the first channels; behind them write hash(neighbour) - hash(self), 8 for each of the four sides."""
    _copy(weight, range(kept))
    for side, (row, column) in enumerate(_SIDES):
        for index, mixture in enumerate(hashes):
            target = weight[kept + side * _HASHES + index, first_hash : first_hash + len(mixture)]
            target[:, 1 + row, 1 + column] += mixture
            target[:, 1, 1] -= mixture


def _write_side_detection(weights: Weights, block: str, *, first_difference: int) -> None:
    """Replace the first difference of each side by 1 where the neighbour on that side is another cell, else by 0."""
    absolute, soft, written = (weights[f"{block}.conv.{layer}.weight"][:, :, 1, 1] for layer in (0, 2, 4))
    for index in range(4 * _HASHES):
        absolute[2 * index : 2 * index + 2, first_difference + index] = torch.tensor([1.0, -1.0])
    for side in range(4):
        parts = slice(2 * side * _HASHES, 2 * (side + 1) * _HASHES)
        soft[2 * side : 2 * side + 2, parts] = _EDGE_GAIN  # min(1, s) = relu(s) - relu(s - 1)
        weights[f"{block}.conv.2.bias"][2 * side + 1] = -1
        target = first_difference + side * _HASHES
        written[target, 2 * side : 2 * side + 2] = torch.tensor([1.0, -1.0])
        for part in range(2):  # the old value arrives by the skip connection and is taken away
            soft[8 + 2 * side + part, 2 * side * _HASHES + part] = 1
            written[target, 8 + 2 * side + part] = -1 if part == 0 else 1


def _write_quarter_choice(weights: Weights, block: str, *, first_side: int, finer_details: bool) -> None:
    """Add to the colours the coarse details (channels 3..20) of the half or quarter one is in.

    With `finer_details` the fine details of that quarter (channels 21..92) take the place of the coarse ones. Where
    left cannot be told from right (equal neighbours) fine details of the left are taken; they have no mean.
    """
    left, right, top, bottom, in_quarter, surely_in_quarter, details = 0, 1, 2, 3, 4, 8, 12
    found, gated, written = (weights[f"{block}.conv.{layer}.weight"][:, :, 1, 1] for layer in (0, 2, 4))
    sides = [first_side + side * _HASHES for side in range(4)]
    found[range(4), sides] = 1
    for quarter, (row, column) in enumerate(itertools.product(range(2), range(2))):
        found[in_quarter + quarter, sides[right]] = 1 if column else -1
        found[in_quarter + quarter, sides[bottom]] = 1 if row else -1
        found[surely_in_quarter + quarter, [sides[left + column], sides[top + row]]] = 1
        weights[f"{block}.conv.0.bias"][in_quarter + quarter] = 1 - row - column
        weights[f"{block}.conv.0.bias"][surely_in_quarter + quarter] = -1
    count = 90 if finer_details else 18
    found[range(details, details + count), range(3, 3 + count)] = 1
    gates = _Gates(gated, weights[f"{block}.conv.2.bias"])
    on_diagonal = [surely_in_quarter, surely_in_quarter + 3]
    off_diagonal = [surely_in_quarter + 1, surely_in_quarter + 2]
    adds = ([left], [top], on_diagonal)  # where the details x, y, xy brighten; elsewhere they darken
    takes = ([right], [bottom], off_diagonal)
    for color, detail, part in itertools.product(range(3), range(3), range(2)):
        for sign, places in ((1, adds[detail]), (-1, takes[detail])):
            gate = gates.add(details + (color * 3 + detail) * 2 + part, open_in=places)
            written[color, gate] = sign if part == 0 else -sign
    for channel in range(18) if finer_details else ():
        for quarter in range(4):
            fine = gates.add(details + 18 + quarter * 18 + channel, open_in=[in_quarter + quarter])
            written[3 + channel, fine] = 1
        written[3 + channel, gates.add(details + channel, open_in=None)] = -1


class _Gates:
    """Hands out rows of a convolution that pass one channel on, or 0 unless one of some 0-or-1 channels is 1."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self.weight, self.bias, self.used = weight, bias, 0

    def add(self, channel: int, *, open_in: list[int] | None) -> int:
        row, self.used = self.used, self.used + 1
        self.weight[row, channel] = 1
        if open_in is not None:
            self.weight[row, open_in] = _SHUT
            self.bias[row] = -_SHUT
        return row


def _write_border_copies(weights: Weights, block: str, *, ones: int) -> None:
    """Channels 3..26 become the colours of the border cells alone, one set for each side and corner, 0 elsewhere.

    With them the filters below repeat the border instead of fading to black, although the format pads with zeros.
    """
    found, gated, written = (weights[f"{block}.conv.{layer}.weight"] for layer in (0, 2, 4))
    for side, (row, column) in enumerate(_SIDES):
        found[side, ones, 1 + row, 1 + column] = -1
        weights[f"{block}.conv.0.bias"][side] = 1
    found[range(4, 31), range(27), 1, 1] = 1
    for border, (row, column) in enumerate(_BORDERS):
        sides = [
            side for side, step in enumerate(_SIDES) if (row and step == (row, 0)) or (column and step == (0, column))
        ]
        for color in range(3):
            gate = border * 3 + color
            gated[gate, 4 + color, 1, 1] = 1
            gated[gate, sides, 1, 1] = _SHUT
            weights[f"{block}.conv.2.bias"][gate] = -_SHUT * len(sides)
            written[3 + gate, gate, 1, 1] = 1
    for channel in range(24):
        gated[24 + channel, 7 + channel, 1, 1] = 1
        written[3 + channel, 24 + channel, 1, 1] = -1


def _write_smoothing(weight: torch.Tensor) -> None:
    """_BLUR both ways; border copies (two pixels wide after upsampling) are narrowed to one and blurred too."""
    for color in range(3):
        for target_border in (None, *range(8)):
            target = color if target_border is None else 3 + target_border * 3 + color
            out = (0, 0) if target_border is None else _BORDERS[target_border]
            _filter_with_borders(weight[target], color, _BLUR, along=out, border_width=2)


def _write_sharpening(weight: torch.Tensor) -> None:
    for color, part in itertools.product(range(3), range(4)):
        _filter_with_borders(weight[color * 4 + part], color, _SHARPEN, along=(0, 0), border_width=1)


def _filter_with_borders(
    row: torch.Tensor, color: int, taps: tuple[float, ...], *, along: tuple[int, int], border_width: int
) -> None:
    """Write a separable filter that sees repeated borders.

    along: (0, 0) filters the colours; a border step filters that border's copy along the border only.
    border_width: 2 where a border copy covers two pixels: then its inner one is read from the border pixel.
    """
    sources = {(0, 0): color} | {step: 3 + index * 3 + color for index, step in enumerate(_BORDERS)}
    inner = border_width - 1
    for step, channel in sources.items():
        axes = [_axis_taps(step[axis], along[axis], taps, inner) for axis in range(2)]
        if axes[0] and axes[1]:
            for (at_row, by_row), (at_column, by_column) in itertools.product(axes[0].items(), axes[1].items()):
                row[channel, 1 + at_row, 1 + at_column] += by_row * by_column


def _axis_taps(step: int, along: int, taps: tuple[float, ...], inner: int) -> dict[int, float]:
    """Taps along one axis for a source that lies on border `step` (0: everywhere), as {offset: weight}."""
    if along:
        return {-along * inner: 1.0} if step == along else {}
    if step:
        return {-step * inner: taps[1 + step]}
    return dict(zip((-1, 0, 1), taps, strict=True))
