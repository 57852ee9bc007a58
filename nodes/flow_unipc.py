"""The sampler of the released reference: flow UniPC, order 2, as a SAMPLER and SIGMAS of the host.

The host's own uni_pc is another solver (it converts to a variance-preserving process and ends at sigma 0.001); every
sampler and scheduler of the host works with Mirage, this one gives the reference's numbers.
Source: microsoft/LatentSpatialMemory@b2cd738, src/mirage/spatia/flow_match.py.
"""

from __future__ import annotations

import math

import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import torch

_FIRST_SIGMA = 0.999  # of the unshifted schedule
_FULL_NOISE = 0.9985  # a run that starts above this starts from pure noise; shift 8 has its second of 50 at .9974
_NEARLY_ONE = 1 - 1e-6  # keeps the log-SNR finite for schedules that start at 1


def flow_sigmas(steps: int, shift: float) -> torch.Tensor:
    """[steps + 1] float32 noise levels from nearly 1 to 0.

    Raises ValueError for less than one step, or a shift that is not above 0.
    """
    if steps < 1 or shift <= 0:
        raise ValueError(
            f"{steps} steps with shift {shift}: there is at least 1 step, and the shift is above 0 (5 as a rule)."
        )
    sigmas = torch.linspace(_FIRST_SIGMA, 0, steps + 1, dtype=torch.float64)
    return (shift * sigmas / (1 + (shift - 1) * sigmas)).float()


def flow_unipc_sampler() -> comfy.samplers.KSAMPLER:
    """The solver as a SAMPLER."""
    return comfy.samplers.KSAMPLER(_sample)


@torch.no_grad()
def _sample(model, noise, sigmas, extra_args=None, callback=None, disable=None):
    """The host's sampler function. `sigmas` is read only: the host hands the caller's own tensor through."""
    extra_args = {**(extra_args or {})}
    extra_args["model_options"] = with_whole_timesteps(extra_args.get("model_options", {}))
    levels = [float(sigma) for sigma in sigmas]
    latents = noise
    # The reference starts from unit noise, the host from sigma * noise.
    if levels[0] >= _FULL_NOISE and torch.count_nonzero(model.noise):
        latents = model.noise
    solver = FlowUniPC(levels)
    batch = noise.new_ones(noise.shape[0])
    for step in comfy.samplers.k_diffusion_sampling.trange(len(levels) - 1, disable=disable):
        denoised = model(latents, sigmas[step] * batch, **extra_args)
        if callback is not None:
            callback({"x": latents, "i": step, "sigma": sigmas[step], "sigma_hat": sigmas[step], "denoised": denoised})
        latents = solver.step(step, latents, denoised)
    return latents


def with_whole_timesteps(model_options: dict) -> dict:
    """A copy of the host's model options under which the model gets its timesteps cut to whole numbers.

    The reference's schedule is integer; without this a stiff model ends 3-4 % away from it.
    """
    options = comfy.model_patcher.create_model_options_clone(model_options)

    def cut(executor, x, timestep, *args, **kwargs):
        return executor(x, timestep.floor(), *args, **kwargs)

    comfy.patcher_extension.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL,
        "mirage_whole_timesteps",
        cut,
        options,
        is_model_options=True,
    )
    return options


class FlowUniPC:
    """Predictor-corrector of order 2 on denoised predictions, B(h) = expm1(-h). Elementwise in the latents.

    Holds the last two predictions and the latents they started from; one object per run.
    """

    def __init__(self, sigmas: list[float]):
        self._sigmas = sigmas
        self._half_log_snr = [self._lambda(sigma) for sigma in sigmas]
        self._denoised: list[torch.Tensor] = []
        self._latents = torch.empty(0)
        self._order = 0

    def step(self, index: int, latents: torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
        """Latents at noise level index + 1, from the latents at level index and what the model made of them."""
        if self._denoised:
            latents = self._corrected(index, denoised)
        self._denoised = [*self._denoised[-1:], denoised]
        self._latents = latents
        self._order = min(2, len(self._sigmas) - 1 - index, index + 1)
        return self._predicted(index)

    def _predicted(self, index: int) -> torch.Tensor:
        drift, weight = self._first_order(index, self._latents, self._denoised[-1])
        if self._order < 2:
            return drift
        return drift - weight * 0.5 * self._slope(index, index + 1)

    def _corrected(self, index: int, denoised: torch.Tensor) -> torch.Tensor:
        """The latents at level index once more, now that the model has seen them."""
        drift, weight = self._first_order(index - 1, self._latents, self._denoised[-1])
        change = denoised - self._denoised[-1]
        if self._order < 2:
            return drift - weight * 0.5 * change
        ratio = self._ratio(index - 1, index)
        first, last = _corrector_weights(ratio, self._half_log_snr[index] - self._half_log_snr[index - 1])
        return drift - weight * (first * self._slope(index - 1, index) + last * change)

    def _first_order(self, start: int, latents: torch.Tensor, denoised: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The first-order update from level `start` to the next, and the weight of what is subtracted from it."""
        weight = (1 - self._sigmas[start + 1]) * math.expm1(self._half_log_snr[start] - self._half_log_snr[start + 1])
        return self._sigmas[start + 1] / self._sigmas[start] * latents - weight * denoised, weight

    def _ratio(self, start: int, stop: int) -> float:
        before = self._half_log_snr[start - 1] - self._half_log_snr[start]
        return before / (self._half_log_snr[stop] - self._half_log_snr[start])

    def _slope(self, start: int, stop: int) -> torch.Tensor:
        return (self._denoised[-2] - self._denoised[-1]) / self._ratio(start, stop)

    @staticmethod
    def _lambda(sigma: float) -> float:
        if sigma <= 0:
            return math.inf
        return math.log1p(-min(sigma, _NEARLY_ONE)) - math.log(sigma)


def _corrector_weights(ratio: float, h: float) -> tuple[float, float]:
    """Solve [[1, 1], [ratio, 1]] w = b for the second-order corrector (UniPC, arXiv 2302.04867)."""
    base = math.expm1(-h)
    phi_2 = base / -h - 1
    phi_3 = phi_2 / -h - 0.5
    b = phi_2 / base, 2 * phi_3 / base
    first = (b[1] - b[0]) / (ratio - 1)
    return first, b[0] - first
