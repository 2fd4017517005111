# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ISC004  (source text of several lines)
"""Privacy bugs that really happened, each as a small change of confide's source, and the test that must fail.

Numbers are those of the list in docs/privacy.md. A change is (module, text that occurs once, replacement).
"""

from __future__ import annotations

from dataclasses import dataclass

Change = tuple[str, str, str]


@dataclass(frozen=True)
class Mutant:
    """One bug.

    Attributes:
        number: Of the list.
        bug: What is wrong, in a few words.
        seen: Where it happened.
        changes: How it is put into confide.
        test: Node of the test that must turn red.
        quick: Whether it belongs to the reduced suite.
    """

    number: int
    bug: str
    seen: str
    changes: tuple[Change, ...]
    test: str
    quick: bool = False


_STEP = "tests/training/test_step.py::"
_MECHANISM = "tests/training/test_mechanism.py::"
_REPLAY = (
    "tests/training/test_replay.py::test_one_unit_moves_nothing_but_the_sums_and_those_within_the_sensitivity"
)
_BOOK = "tests/privacy/ledger/test_book.py::"

MUTANTS = (
    Mutant(
        1,
        "batches of a fixed size, accounted as Poisson",
        "Opacus #80, TF-Privacy #483, private-transformers #7",
        (
            (
                "confide.mechanisms.sampling",
                "return np.flatnonzero(stream.bernoulli(probability, units)).astype(np.int64)",
                "return np.sort(stream.permutation(units)[: round(probability * units)])",
            ),
        ),
        _MECHANISM + "test_batches_have_the_sizes_and_pairs_of_poisson_sampling",
    ),
    Mutant(
        1,
        "the same batch in every step",
        "samplers seeded once",
        (
            (
                "confide.training.mechanism",
                'self._key.stream("sampling", step=step)',
                'self._key.stream("sampling", step=0)',
            ),
        ),
        _MECHANISM + "test_batches_have_the_sizes_and_pairs_of_poisson_sampling",
    ),
    Mutant(
        2,
        "divisor from the number of people really there",
        "Opacus #571",
        (
            (
                "confide.training.mechanism",
                'stream = self._key.stream("sampling", step=step)\n',
                'stream = self._key.stream("sampling", step=step)\n        self._n = population\n',
            ),
            (
                "confide.training.mechanism",
                "divisor = self.plan.expected_batch_size\n",
                "divisor = self.plan.sampling_rate * self._n\n",
            ),
        ),
        _STEP + "test_the_update_is_noisy_sum_over_expected_batch_size",
        quick=True,
    ),
    Mutant(
        3,
        "noise divided by the batch size twice",
        "Tramèr et al. 2022, arXiv:2202.12219",
        (
            (
                "confide.training.mechanism",
                "std = self.plan.gradient_noise_multiplier * self.clipping.sensitivity\n",
                "std = self.plan.gradient_noise_multiplier * self.clipping.sensitivity"
                " / self.plan.expected_batch_size\n",
            ),
        ),
        _MECHANISM + "test_the_sum_carries_the_stated_variance_whatever_the_realised_batch[some]",
        quick=True,
    ),
    Mutant(
        3,
        "noise of σ without the clip norm",
        "wrong scale of a noise multiplier",
        (
            (
                "confide.training.mechanism",
                "std = self.plan.gradient_noise_multiplier * self.clipping.sensitivity\n",
                "std = self.plan.gradient_noise_multiplier\n",
            ),
        ),
        _MECHANISM + "test_the_sum_carries_the_stated_variance_whatever_the_realised_batch[some]",
    ),
    Mutant(
        3,
        "one per cent too little noise",
        "rounding of a standard deviation",
        (
            (
                "confide.mechanisms.noise",
                "self.stddev * (1 + ROUNDING)",
                "0.99 * self.stddev * (1 + ROUNDING)",
            ),
        ),
        _MECHANISM + "test_the_sum_carries_the_stated_variance_whatever_the_realised_batch[everybody]",
    ),
    Mutant(
        4,
        "an empty batch is skipped",
        "Opacus #161, #612",
        (
            (
                "confide.training.step",
                "                released = self.mechanism.release(number, self.contribution(number))\n",
                "                if not len(self.mechanism.units(number, self.examples.n_units)):\n"
                "                    continue\n"
                "                released = self.mechanism.release(number, self.contribution(number))\n",
            ),
        ),
        _STEP + "test_empty_batches_are_steps_of_noise_alone",
        quick=True,
    ),
    Mutant(
        5,
        "accumulated steps are charged once for several",
        "jax_privacy 3990773, Opacus 53b3c254",
        (
            (
                "confide.training.step",
                "                    charge.charge(number)\n",
                "                    number % 2 or charge.charge(number)\n",
            ),
        ),
        _STEP + "test_a_resumed_run_takes_only_the_steps_that_are_left",
    ),
    Mutant(
        5,
        "of several physical batches only the last counts",
        "gradients zeroed between virtual steps",
        (
            (
                "confide.training.step",
                "            total.add(out.sums, unit_means(out.losses, labels), out.factors)\n",
                "            total = self.mechanism.nothing(parameters)\n"
                "            total.add(out.sums, unit_means(out.losses, labels), out.factors)\n",
            ),
        ),
        _STEP + "test_physical_batches_change_speed_only",
    ),
    Mutant(
        5,
        "clipping after averaging over the physical batch",
        "DP-SGD of averaged gradients",
        (("confide.training.physical", "labels.to(device)", "(labels * 0).to(device)"),),
        _STEP + "test_the_sum_is_that_of_each_units_mean_gradient_clipped_once[plain]",
    ),
    Mutant(
        6,
        "K views count as K people",
        "Opacus #461",
        (
            (
                "confide.training.physical",
                "np.repeat(owner, self.views if self.augmentation else 1)",
                "np.arange(len(owner) * (self.views if self.augmentation else 1))",
            ),
        ),
        _REPLAY + "[views]",
        quick=True,
    ),
    Mutant(
        6,
        "K times the same view",
        "equivariant 3dd7cd0",
        (
            (
                "confide.training.physical",
                "numbers = uniforms(seed, rows, views, augmentation.draws)",
                "numbers = uniforms(seed, rows, 1, augmentation.draws).repeat(views, 1)",
            ),
        ),
        _STEP + "test_views_of_an_image_differ_and_are_new_in_every_step",
    ),
    Mutant(
        7,
        "a BatchNorm in training mode passes, frozen",
        "Opacus' validator looks at trainable modules only",
        (
            (
                "confide.gradients.scrutiny",
                "isinstance(layer, _BatchNorm) and (layer.training or not layer.track_running_stats)",
                "isinstance(layer, _BatchNorm) and any(p.requires_grad for p in layer.parameters())",
            ),
        ),
        "tests/gradients/test_engine.py::test_batch_norm_is_refused_even_if_frozen",
    ),
    Mutant(
        7,
        "buffers keep un-noised statistics of the batch",
        "running statistics exported with the model",
        (
            (
                "confide.gradients.scrutiny",
                "if known is None or known[0] is not buffer or known[1] != buffer._version:",
                "if False:",
            ),
        ),
        "tests/gradients/test_engine.py::test_a_buffer_that_changes_is_refused",
    ),
    Mutant(
        8,
        "a raw gradient reaches the optimizer",
        "Opacus #330, dayu11 #7",
        (
            (
                "confide.training.step",
                "                # Whatever gradient lies about on any parameter was not privatised.\n"
                "                optimizer.zero_grad(set_to_none=True)\n",
                "",
            ),
        ),
        _STEP + "test_the_optimizer_sees_privatised_gradients_and_nothing_else",
        quick=True,
    ),
    Mutant(
        8,
        "the optimizer updates parameters of another model",
        "heads trained beside the private model",
        (
            (
                "confide.training.admission",
                "if any(id(parameter) not in own for parameter in held):",
                "if False:",
            ),
        ),
        "tests/training/test_admission.py::test_an_optimizer_of_another_model_is_refused",
    ),
    Mutant(
        9,
        "the mean loss is released without noise",
        "schedulers and early stopping on the private loss",
        (
            (
                "confide.training.mechanism",
                "            statistics |= side.add_({name: contribution.statistics[name]}, stream)\n",
                "            statistics |= {name: contribution.statistics[name]}\n",
            ),
        ),
        _MECHANISM + "test_released_statistics_carry_their_own_noise_and_sensitivity",
    ),
    Mutant(
        9,
        "what is released beside the gradient costs nothing",
        "adaptive clipping outside the account",
        (
            (
                "confide.privacy.releases",
                "    return noise_multiplier / math.sqrt(left) * (1 + 1e-14)\n",
                "    return noise_multiplier\n",
            ),
        ),
        _STEP + "test_what_is_released_besides_the_gradient_is_in_the_account[AdaptiveClipping]",
    ),
    Mutant(
        9,
        "the clip norm follows the true share of unclipped units",
        "data-dependent choices outside the mechanism",
        (
            (
                "confide.training.mechanism",
                "        divisor = self.plan.expected_batch_size\n",
                "        divisor = self.plan.expected_batch_size\n"
                "        raw = dict(contribution.statistics)\n",
            ),
            (
                "confide.training.mechanism",
                "self.clipping = self.clipping.updated(unclipped)",
                'self.clipping = self.clipping.updated(float(raw["clip-fraction"]) / divisor + 0.5)',
            ),
        ),
        _STEP + "test_adaptive_clipping_follows_the_quantile_by_released_values_only",
    ),
    Mutant(
        10,
        "a study costs what its best run costs",
        "LeakPro PR 438",
        (
            (
                "confide.privacy.accountants",
                "rdp_epsilon(dpa.dp_event.RepeatAndSelectDpEvent(event, mean_trials, shape), delta)",
                "rdp_epsilon(event, delta)",
            ),
        ),
        "tests/privacy/test_accountants.py::test_selecting_the_best_of_random_many_trials",
    ),
    Mutant(
        11,
        "every rank adds all of the noise",
        "fedbiomed #1443",
        (("confide.mechanisms.noise", " / math.sqrt(self.ranks)", ""),),
        "tests/training/test_ranks.py::test_ranks_draw_shares_of_the_noise_that_have_nothing_in_common",
    ),
    Mutant(
        11,
        "all ranks draw the same noise",
        "equal seeds on all ranks",
        (
            (
                "confide.training.mechanism",
                'self._key.stream("noise", step=step, rank=self.ranks.rank)',
                'self._key.stream("noise", step=step)',
            ),
        ),
        "tests/training/test_ranks.py::test_ranks_draw_shares_of_the_noise_that_have_nothing_in_common",
    ),
    Mutant(
        11,
        "all ranks work on all units",
        "Opacus PR 196",
        (("confide.training.ranks", "return units[units % self.world == self.rank]", "return units"),),
        "tests/training/test_ranks.py::test_a_units_rank_depends_on_its_own_number_only",
    ),
    Mutant(
        12,
        "the key is a constant",
        "pytorch #25071: torch.Generator() always starts at one seed",
        (
            (
                "confide.mechanisms.keys",
                "return cls(os.urandom(KEY_BYTES), private=True)",
                "return cls(bytes(KEY_BYTES), private=True)",
            ),
        ),
        "tests/mechanisms/test_keys.py::test_keys_of_the_operating_system_differ_between_calls_and_processes",
    ),
    Mutant(
        12,
        "the same noise in every step",
        "deepee: seeded anew before every step",
        (
            (
                "confide.training.mechanism",
                'self._key.stream("noise", step=step, rank=self.ranks.rank)',
                'self._key.stream("noise", step=0, rank=self.ranks.rank)',
            ),
        ),
        _MECHANISM + "test_noise_of_steps_and_parameters_is_uncorrelated",
        quick=True,
    ),
    Mutant(
        12,
        "the same noise for every parameter",
        "deepee: seeded anew before every parameter",
        (
            (
                "confide.training.mechanism",
                "        if self._ahead is None:\n"
                "            gradients = noise.add_(contribution.sums, self._stream(step), divisor)\n",
                "        if True:\n"
                "            given, same = contribution.sums.items(), self._stream\n"
                "            gradients = {n: noise.add_({n: t}, same(step), divisor)[n] for n, t in given}\n",
            ),
        ),
        _MECHANISM + "test_noise_of_steps_and_parameters_is_uncorrelated",
    ),
    Mutant(
        13,
        "hardened mode rounds sums instead of units",
        "Mironov 2012; rounding a floating-point sum",
        (
            (
                "confide.training.step",
                "self.examples, self.views, self.augmentation, self.work, self.mechanism.hardened\n",
                "self.examples, self.views, self.augmentation, self.work\n",
            ),
        ),
        _STEP + "test_the_sum_is_that_of_each_units_mean_gradient_clipped_once[hardened]",
    ),
    Mutant(
        13,
        "discrete noise costs no delta",
        "discrete noise accounted as Gaussian",
        (("confide.privacy.discrete", "    if apart == 0:\n", "    if True:\n"),),
        "tests/privacy/test_discrete.py::test_epsilon_pays_for_the_distance_out_of_delta",
    ),
    Mutant(
        14,
        "the GDP approximation is the claim",
        "deepee; Opacus #384",
        (
            (
                "confide.privacy.accountants",
                "    by_pld = pld_epsilon(event, delta, grid)\n",
                "    by_pld = gdp_epsilon(sampling, noise_multiplier, steps, delta, 1000)\n",
            ),
        ),
        "tests/privacy/test_accountants.py::test_full_batches_have_the_closed_form_of_a_gaussian"
        "|tests/privacy/test_accountants.py::test_one_sampled_step_has_the_closed_form_of_a_mixture",
    ),
    Mutant(
        14,
        "divergences lost in rounding make epsilon zero",
        "TF-Privacy #166",
        (("confide.privacy.bounds", " + _count(event) * _RDP_ROUNDING", ""),),
        "tests/privacy/test_accountants.py::test_renyi_divergences_lost_in_rounding_do_not_make_epsilon_zero",
    ),
    Mutant(
        15,
        "fixed-size batches with the sensitivity of add-or-remove-one",
        "deepee: noise σC/B for a batch of fixed size",
        (
            (
                "confide.privacy.schemes",
                "dpa.GaussianDpEvent(noise_multiplier / 2)",
                "dpa.GaussianDpEvent(noise_multiplier)",
            ),
        ),
        "tests/privacy/test_schemes.py::test_events",
    ),
    Mutant(
        16,
        "each layer clipped to C, and C claimed for all",
        "per-layer clipping, fedbiomed #1443",
        (
            (
                "confide.mechanisms.clipping",
                "        return math.sqrt(math.fsum(bound**2 for _, bound in self.bounds))\n",
                "        return max(bound for _, bound in self.bounds)\n",
            ),
        ),
        "tests/mechanisms/test_clipping.py::test_layers_are_clipped_each_and_claimed_together",
    ),
    Mutant(
        16,
        "the norm leaves a parameter out",
        "Opacus #413, #417: tied weights; 7264cd73: the bias",
        (
            (
                "confide.gradients.units",
                "_add_(1, self._groups, squared)",
                "_add_(1, self._groups[1:], squared[:, 1:])",
            ),
        ),
        _REPLAY + "[plain]",
    ),
    Mutant(
        17,
        "a NaN gradient poisons the sum",
        "Opacus: NaN norm, NaN factor",
        (
            (
                "confide.mechanisms.clipping",
                "        return torch.where(finite, scaled, 0.0)\n",
                "        return self._scale(norms)\n",
            ),
        ),
        _STEP + "test_a_record_that_is_not_finite_contributes_zero_without_a_sign",
    ),
    Mutant(
        18,
        "a mean loss is taken for one per row",
        "reduction='mean' without its factor B",
        (
            (
                "confide.gradients.reference",
                "    if losses.shape != (rows,):\n",
                "    if losses.dim() == 0:\n        return losses.expand(rows)\n"
                "    if losses.shape != (rows,):\n",
            ),
        ),
        _STEP + "test_a_mean_loss_is_refused",
    ),
    Mutant(
        19,
        "epsilon of one pixel stands for the image",
        "Singh et al. 2020",
        (
            (
                "confide.mechanisms.local_pixels",
                "rounded(shape[1] * shape[2] * pixel), m, 0.0)",
                "rounded(pixel), m, 0.0)",
            ),
        ),
        "tests/mechanisms/test_local.py::test_the_published_scales_have_the_epsilon_of_a_whole_image",
    ),
    Mutant(
        20,
        "every image of a patient counts as a person",
        "per-image clipping under a claim per patient",
        (
            (
                "confide.training.examples",
                "index = np.arange(length) if units is None else np.asarray(units)",
                "index = np.arange(length)",
            ),
        ),
        _REPLAY + "[patient]",
    ),
    Mutant(
        20,
        "a claim per patient on rows that nobody assigned",
        "image-level guarantees sold as patient-level",
        (
            (
                "confide.training.admission",
                "if plan.unit is not PrivacyUnit.IMAGE and not brings_units:",
                "if False:",
            ),
        ),
        "tests/training/test_admission.py::test_a_claim_per_patient_needs_rows_that_say_whose_they_are",
    ),
    Mutant(
        22,
        "any delta will do",
        "δ = 1e-5 with n = 100,000",
        (("confide.privacy.plan", "if plan.units > 1 and plan.delta >= 1 / plan.units:", "if False:"),),
        "tests/privacy/test_plan.py::test_delta_at_the_border",
    ),
    Mutant(
        23,
        "a resumed run forgets what was charged",
        "accountants rebuilt from the checkpoint",
        (("confide.privacy.ledger.reservation", "self._charged = entry.leased\n", "self._charged = 0\n"),),
        _BOOK + "test_a_crash_keeps_the_lease_and_a_pause_gives_it_back",
    ),
    Mutant(
        23,
        "a crash gives its lease back",
        "steps counted after they were taken",
        (
            (
                "confide.privacy.ledger.state",
                'self.runs[body["run"]].leased += body["steps"]\n',
                'self.runs[body["run"]].leased += 0\n',
            ),
        ),
        _BOOK + "test_spent_counts_what_was_charged_not_what_was_planned",
    ),
    Mutant(
        23,
        "a step that is taken again is not charged again",
        "replayed steps",
        (
            (
                "confide.privacy.ledger.book",
                "more = max(0, rest) + max(0, replay)",
                "more = max(0, rest)",
            ),
        ),
        _BOOK + "test_replayed_steps_are_charged_again",
    ),
    Mutant(
        24,
        "the step is taken before it is charged",
        "deepee: the watchdog stops after the budget was exceeded",
        (
            (
                "confide.training.step",
                "                if charge is not None:\n                    charge.charge(number)\n"
                "                if ahead:\n"
                "                    self.mechanism.begin(number, trainable(self.model))\n"
                "                released = self.mechanism.release(number, self.contribution(number))\n",
                "                if ahead:\n"
                "                    self.mechanism.begin(number, trainable(self.model))\n"
                "                released = self.mechanism.release(number, self.contribution(number))\n"
                "                if charge is not None:\n                    charge.charge(number)\n",
            ),
        ),
        _STEP + "test_a_refused_charge_stops_before_anything_is_computed",
        quick=True,
    ),
    Mutant(
        24,
        "more steps than were reserved",
        "deepee: the watchdog stops after the budget was exceeded",
        (
            (
                "confide.privacy.ledger.reservation",
                "got = min(steps, entry.reserved - entry.leased)",
                "got = steps",
            ),
        ),
        _BOOK + "test_the_step_after_the_last_is_refused",
    ),
    Mutant(
        24,
        "an un-noised sum is given out",
        "NVFlare #343",
        (
            (
                "confide.training.mechanism",
                "        if self._ahead is None:\n"
                "            gradients = noise.add_(contribution.sums, self._stream(step), divisor)\n",
                "        if True:\n"
                "            gradients = {n: t / divisor for n, t in contribution.sums.items()}\n",
            ),
        ),
        _MECHANISM + "test_the_sum_carries_the_stated_variance_whatever_the_realised_batch[some]",
    ),
)
