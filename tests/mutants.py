"""Faults that a person would make, or that published codes have, and the tests that notice each.

A mutant is one expression of the package replaced by a wrong one. Running

    python -m tests.mutants            all of them; with words, those whose file or fault has one of the words

copies the package, breaks it in one place after the other, runs the tests that are named there, and says which mutants
they killed. A mutant that lives is a missing test. `tests/test_mutants.py` does the same under the marker `full`, and
in every run checks that each expression still stands in its file exactly once.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

ROOT = Path(__file__).resolve().parents[1]
FAILED = 1
"""Exit code of pytest where tests ran and one failed; any other would say that nothing was tested."""
BROKEN = 99
"""Exit code where pytest itself did not get through."""
LIMIT = 120
"""Seconds that one test may take."""
SAID = "said.txt"
"""What pytest printed, in the folder of the copy."""


class Mutant(NamedTuple):
    """In `file` (below `infoplane/`) the text `before` becomes `after`; `tests` (below `tests/`) must then fail."""

    fault: str
    file: str
    before: str
    after: str
    tests: str

    def broken(self, text: str) -> str:
        """The source with the fault in it; ValueError where the place is not clear."""
        if text.count(self.before) != 1:
            raise ValueError(
                f"{self.file} must hold {self.before!r} exactly once, got {text.count(self.before)} times; "
                f"give the mutant '{self.fault}' its expression anew"
            )
        return text.replace(self.before, self.after)


ESTIMATORS = [
    Mutant(
        "bits for nats",
        "core/units.py",
        "1.0 / math.log(2.0)",
        "1.0",
        "estimators/test_truths.py::test_value",
    ),
    Mutant(
        "Miller's correction counts the codes, not the codes less one",
        "estimators/_counting/corrections.py",
        "(runs.codes.to(torch.float64) - 1) *",
        "runs.codes.to(torch.float64) *",
        "estimators/test_discrete.py::test_corrections_equal_their_formulas",
    ),
    Mutant(
        "Grassberger's alternating sign the wrong way round",
        "estimators/_counting/corrections.py",
        "n % 2 == 0, 0.5, -0.5",
        "n % 2 == 0, -0.5, 0.5",
        "estimators/test_discrete.py::test_corrections_equal_their_formulas",
    ),
    Mutant(
        "the upper edge gets a cell of its own",
        "estimators/binning.py",
        "cells.clamp_(max=self.last) if self.known",
        "cells if self.known",
        "estimators/test_binning.py::test_counted_cells_equal_the_formula",
    ),
    Mutant(
        "the range of the run is that of its last block",
        "estimators/binning.py",
        "torch.stack(lows).amin(0)",
        "lows[-1]",
        "estimators/test_binning.py::test_range_per_unit",
    ),
    Mutant(
        "the extremes of a layer taken along the wrong axis",
        "estimators/binning.py",
        "return t.amin(1, keepdim=True), t.amax(1, keepdim=True)",
        "return t.amin(2, keepdim=True), t.amax(2, keepdim=True)",
        "estimators/test_binning.py::test_range_per_unit",
    ),
    Mutant(
        "labels shuffled with the wrong seed",
        "estimators/_labels.py",
        "torch.Generator().manual_seed(seed)",
        "torch.Generator().manual_seed(0)",
        "estimators/test_binning.py::test_seed_moves_the_null_only",
    ),
    Mutant(
        "labels drawn with replacement instead of shuffled",
        "estimators/_labels.py",
        'torch.randperm(count, generator=generator, device="cpu")',
        'torch.randint(count, (count,), generator=generator, device="cpu")',
        "estimators/test_shuffles.py",
    ),
    Mutant(
        "rows of one input get labels of their own in the null",
        "estimators/_counting/null.py",
        "if not labels.distinct:",
        "if False:",
        "estimators/test_discrete.py::test_labels_of_repeated_inputs_are_shuffled_together",
    ),
    Mutant(
        "a value inside its null counts as above it",
        "estimators/_driver.py",
        "top = self.mean if self.high is None else self.high",
        "top = self.mean if self.low is None else self.low",
        "estimators/test_binning.py::test_null_of_independent_labels_covers_the_estimate",
    ),
    Mutant(
        "codes of a single input no longer saturate",
        "estimators/_counting/__init__.py",
        "return 2 * singles > codes",
        "return singles > codes",
        "estimators/test_discrete.py::test_corrections_keep_the_flags_of_what_they_correct",
    ),
    Mutant(
        "the ceiling of H(T) in nats",
        "estimators/_counting/__init__.py",
        "most = math.log2(labels.samples)",
        "most = math.log(labels.samples)",
        "estimators/test_binning.py::test_ceilings_are_entropies_of_rows_inputs_and_labels",
    ),
    Mutant(
        "percentiles one draw too high",
        "estimators/_labels.py",
        "below = int(share * last)",
        "below = min(int(share * last) + 1, last)",
        "estimators/test_shuffles.py::test_percentiles_are_those_of_numpy",
    ),
    Mutant(
        "the edge of a class of targets belongs to the class below",
        "estimators/_labels.py",
        "edges, right=True)",
        "edges)",
        "estimators/test_binning.py::test_bins_of_targets",
    ),
    Mutant(
        "edges at equal counts one rank too far",
        "estimators/_counting/edges.py",
        "parts = [k * count // self.n_bins, last]",
        "parts = [(k * count + count - 1) // self.n_bins, last]",
        "estimators/test_adaptive.py::test_examples_run_on_the_published_code",
    ),
    Mutant(
        "the sentinel is the layer's smallest value even of ReLU",
        "estimators/adaptive.py",
        "if least >= 0:",
        "if least > 0:",
        "estimators/test_adaptive.py::test_automatic_sentinel",
    ),
    Mutant(
        "units scaled by the standard deviation over N - 1",
        "estimators/_scaling.py",
        "std = z.square().mean(-2, keepdim=True).sqrt()",
        "std = z.std(-2, keepdim=True)",
        "estimators/test_gram.py::test_zscore",
    ),
    Mutant(
        "a variance taken for a standard deviation",
        "estimators/kde.py",
        "return math.sqrt(config.variance)",
        "return config.variance",
        "estimators/test_truths.py::test_value",
    ),
    Mutant(
        "the lower bound with the kernel of the upper one",
        "estimators/kde.py",
        "log2_ratio_mean(self.samples, sums.narrow), log2_ratio_mean(self.samples, sums.wide)",
        "log2_ratio_mean(self.samples, sums.narrow), log2_ratio_mean(self.samples, sums.narrow)",
        "estimators/test_truths.py::test_value",
    ),
    Mutant(
        "inputs with several rows weigh as if all had them",
        "estimators/kde.py",
        "share = len(groups) / self.samples",
        "share = 1.0",
        "estimators/test_kde.py::test_rows_of_one_input_weigh_by_their_number",
    ),
    Mutant(
        "the spread of a layer around one mean instead of each unit's own",
        "estimators/noise.py",
        "(part - part.mean(0)).square().sum()",
        "(part - part.mean()).square().sum()",
        "estimators/test_noise.py::test_rms_of_any_scale",
    ),
    Mutant(
        "the passes of one input are forgotten",
        "estimators/noise.py",
        "out[key] = out[key] - within",
        "out[key] = out[key]",
        "estimators/test_noise.py::test_same_input_in_two_states_carries_one_bit",
    ),
    Mutant(
        "KSG counts without the sample itself",
        "estimators/_neighbor_formulas.py",
        "digamma(k) + digamma(n) - (in_a + 1).double()",
        "digamma(k) + digamma(n) - in_a.clamp(min=1).double()",
        "estimators/test_knn.py::test_pairs_as_written_out",
    ),
    Mutant(
        "the second KSG formula without its 1/k",
        "estimators/_neighbor_formulas.py",
        "digamma(k) - 1.0 / k + digamma(n)",
        "digamma(k) + digamma(n)",
        "estimators/test_knn.py::test_pairs_as_written_out",
    ),
    Mutant(
        "the bias of independent Gaussians added instead of taken off",
        "estimators/gaussian.py",
        "nats = nats - independent_nats(",
        "nats = nats + independent_nats(",
        "estimators/test_gaussian.py::test_more_units_than_samples_show_nothing_without_dependence",
    ),
    Mutant(
        "HSIC divided by N squared",
        "estimators/hsic.py",
        "(t.shape[1] - 1) ** 2",
        "t.shape[1] ** 2",
        "estimators/test_hsic.py::test_slow_reference",
    ),
    Mutant(
        "Renyi entropy in nats",
        "estimators/_scaling.py",
        "torch.log2(p.pow(alpha).sum(-1))",
        "torch.log(p.pow(alpha).sum(-1))",
        "estimators/test_truths.py::test_value",
    ),
    Mutant(
        "Silverman's exponent without its four",
        "estimators/_gram.py",
        "-1.0 / (4 + units)",
        "-1.0 / units",
        "estimators/test_renyi.py::test_slow_reference",
    ),
    Mutant(
        "Cauchy-Schwarz with the cross term once",
        "estimators/cs_qmi.py",
        "other.log_mean - 2 * cross",
        "other.log_mean - cross",
        "estimators/test_cs_qmi.py::test_slow_reference",
    ),
    Mutant(
        "a probe that is scored on the rows it was fitted to",
        "estimators/probe.py",
        "zip(~outside[some], model.scores.unbind(1), strict=True)",
        "zip(outside[some], model.scores.unbind(1), strict=True)",
        "estimators/test_probe.py::test_random_labels_carry_nothing",
    ),
    Mutant(
        "rows of one input on both sides of a fold",
        "estimators/_labels.py",
        "return (place % folds)[x_ids]",
        "return torch.arange(len(x_ids), device=x_ids.device) % folds",
        "estimators/test_probe.py::test_same_inputs_stay_in_one_fold",
    ),
    Mutant(
        "no flag where a value does not exceed its null",
        "estimators/_driver.py",
        "chance = q.value <= null.top",
        "chance = q.value < null.top - 1e9",
        "estimators/test_kde.py::test_labels_that_mean_nothing_are_below_their_null",
    ),
]

CAPTURE = [
    Mutant(
        "the noisy value is recorded",
        "hooks/_pass/capture.py",
        "attached.after(module, self.ahead_of_noise, first=True)",
        "pass",
        "hooks/test_noise_injection.py::test_the_recorder_sees_the_clean_value_and_later_layers_the_noisy_one",
    ),
    Mutant(
        "of a module that is called twice the last call is taken for all",
        "hooks/_pass/capture.py",
        "if self.ran == self.call and not self.clean:",
        "if not self.clean:",
        "hooks/test_again.py hooks/test_select.py",
    ),
    Mutant(
        "a layer that stops running goes unnoticed",
        "hooks/_pass/capture.py",
        "if ran != runs and",
        "if ran > runs and",
        "hooks/test_state.py::test_a_layer_that_stops_running",
    ),
    Mutant(
        "one row for all samples is spread over them",
        "hooks/_pass/capture.py",
        "if tuple(tensor.shape[: len(first)]) != first:",
        "if tensor.ndim < len(first):",
        "hooks/test_state.py::test_a_layer_that_later_gives_one_row_for_all",
    ),
    Mutant(
        "float16 makes infinities in silence",
        "hooks/_pass/capture.py",
        "if largest > HALF_MAX:",
        "if largest > 2 * HALF_MAX:",
        "hooks/test_state.py::TestStoredDtype::test_overflow",
    ),
    Mutant(
        "the probe runs in training mode",
        "hooks/_pass/state.py",
        "if self._evaluation:\n                evaluate(model)",
        "if not self._evaluation:\n                evaluate(model)",
        "hooks/test_state.py::test_training_mode_must_be_asked_for",
    ),
    Mutant(
        "NumPy's random numbers are not put back",
        "hooks/_pass/state.py",
        "parts += [partial(np.random.set_state, np.random.get_state())]",
        "parts += []",
        "hooks/test_state.py::test_random_states",
    ),
    Mutant(
        "gradients stay on while the probe runs",
        "hooks/_pass/state.py",
        "torch.set_grad_enabled(False)",
        "torch.set_grad_enabled(True)",
        "hooks/test_state.py::test_the_pass_builds_no_graph",
    ),
    Mutant(
        "buffers are not put back",
        "hooks/_pass/state.py",
        "if changed and self._copy is not None:",
        'if changed and self._copy is not None and self.kind != "buffer":',
        "hooks/test_state.py::test_buffers",
    ),
    Mutant(
        "the same noise at every snapshot",
        "hooks/_pass/prober.py",
        "SeedSequence([self.settings.seed, step, pass_number])",
        "SeedSequence([self.settings.seed, pass_number])",
        "hooks/test_noise_injection.py::test_measurement_noise_is_a_function_of_seed_and_step",
    ),
    Mutant(
        "a schedule misses the steps that a loop jumps over",
        "hooks/schedule.py",
        "return step // self.n > previous // self.n",
        "return step % self.n == 0",
        "hooks/test_schedule.py",
    ),
    Mutant(
        "a loop that counts from zero calls its first step untrained",
        "hooks/schedule.py",
        "self.shift = 1 if counter == 0 else 0",
        "self.shift = 0",
        "hooks/test_recorder.py",
    ),
    Mutant(
        "a step may come twice",
        "hooks/schedule.py",
        "if step <= self._previous:",
        "if step < self._previous:",
        "hooks/test_recorder.py",
    ),
    Mutant(
        "padding counts in the mean",
        "hooks/reduce.py",
        "count = kept.sum(dim=1).clamp_min(1)",
        "count = t.shape[1]",
        "hooks/test_reduce.py::test_padding_does_not_count",
    ),
    Mutant(
        "projections of the wrong variance",
        "hooks/reduce.py",
        "(matrix / math.sqrt(n))",
        "(matrix / n)",
        "hooks/test_reduce.py::test_projection_keeps_squared_distances_on_average",
    ),
    Mutant(
        "units in another order at every draw of them",
        "hooks/reduce.py",
        "return chosen.sort().values.to(device)",
        "return chosen.to(device)",
        "hooks/test_reduce.py::test_units_are_the_same_at_every_snapshot_and_seeded",
    ),
    Mutant(
        "the spread of gradients around the mean before the last step",
        "hooks/metrics.py",
        "addcmul_(delta, gradient - seen.mean)",
        "addcmul_(delta, delta)",
        "hooks/test_metrics.py::test_against_stored_gradients",
    ),
    Mutant(
        "the variance of gradients over N",
        "hooks/metrics.py",
        "/ (m.count - 1)",
        "/ m.count",
        "hooks/test_metrics.py::test_against_stored_gradients",
    ),
]

STORE = [
    Mutant(
        "a file gets its name before its bytes are on the disk",
        "core/files.py",
        "            if sync:\n                os.fsync(fd)",
        "            pass",
        "store/test_crash.py::test_the_replay_of_power_cuts_passes_the_real_writer",
    ),
    Mutant(
        "a new name is not made durable",
        "core/files.py",
        "        if sync:\n            sync_directory(directory)",
        "        pass",
        "store/test_crash.py::test_the_replay_of_power_cuts_passes_the_real_writer",
    ),
    Mutant(
        "a line of the manifest is not synced",
        "core/files.py",
        'write_all(fd, b"\\n" + data if self._torn else data)\n                os.fsync(fd)',
        'write_all(fd, b"\\n" + data if self._torn else data)',
        "store/test_manifest.py::test_lines_are_synced_when_append_returns",
    ),
    Mutant(
        "the next line goes on a torn one",
        "core/files.py",
        'b"\\n" + data if self._torn else data',
        "data",
        "store/test_faults.py::test_a_torn_manifest_line_is_cut_off_or_left_alone",
    ),
    Mutant(
        "a partial write is taken for a whole one",
        "core/files.py",
        "view = view[n:]",
        "view = view[len(view) :]",
        "store/test_faults.py::test_every_call_may_fail_once",
    ),
    Mutant(
        "a process with the number of a dead one keeps its lock",
        "core/files.py",
        "return started is None or now is None or started == now",
        "return True",
        "store/test_writer.py::test_a_number_that_another_process_has_now_is_not_the_owner",
    ),
    Mutant(
        "symbolic links are followed",
        "core/files.py",
        'os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)',
        "os.O_RDONLY",
        "store/test_hostile.py::test_only_regular_files_are_opened",
    ),
    Mutant(
        "activations are read without looking at their digest",
        "store/reader.py",
        "if digest(view) != shard.digests[at + k, i].tobytes() or _bad_bool(block[k]):",
        "if _bad_bool(block[k]):",
        "store/test_damage.py::test_damage_that_shows_on_reading_withdraws_the_step_and_leaves_the_rest",
    ),
    Mutant(
        "the index of a shard is read without looking at its seal",
        "store/_shard.py",
        "if digest(*(data[name] for name in names)) != data[SEAL]:",
        "if not data[SEAL]:",
        "store/test_hostile.py store/test_damage.py::test_a_shard_notices_damage_without_the_manifest",
    ),
    Mutant(
        "verify does not look outside the arrays",
        "store/_scan.py",
        "if not damaged and entry is not None and (size, whole) != (entry.size, entry.xxh3_128):",
        "if not damaged and entry is not None and size != entry.size:",
        "store/test_damage.py::test_a_whole_file_digest_finds_what_no_reader_would_see",
    ),
    Mutant(
        "what a session superseded at its first step stays",
        "store/reader.py",
        "if step < ends[shard.meta.session]:",
        "if step <= ends[shard.meta.session]:",
        "store/test_writer.py::test_resume_supersedes_and_deletes_nothing",
    ),
    Mutant(
        "an older session ends a newer one",
        "store/_scan.py",
        "sorted(starts.keys() | present, reverse=True)",
        "sorted(starts.keys() | present)",
        "store/test_writer.py::test_resume_supersedes_and_deletes_nothing",
    ),
    Mutant(
        "steps in the order of files",
        "store/reader.py",
        "for step in sorted(groups):",
        "for step in groups:",
        "store/test_roundtrip.py::test_steps_of_more_digits_than_names_have_room_for_stay_in_order",
    ),
    Mutant(
        "rows that two ranks wrote are taken from the last",
        "store/reader.py",
        "if (present > 1).any():",
        "if False:",
        "store/test_roundtrip.py::test_rows_present_twice_are_refused",
    ),
    Mutant(
        "a run goes on with another probe",
        "store/_directory.py",
        "if record.probe_digest != digest:",
        "if False:",
        "store/test_writer.py::test_another_probe_is_refused",
    ),
    Mutant(
        "infinite values count as finite",
        "store/_shard.py",
        "tuple(count_nonfinite(array, layer.dtype) for layer, array in zip(self.layers, self.arrays, strict=True))",
        "tuple(int((array != array).sum()) for layer, array in zip(self.layers, self.arrays, strict=True))",
        "store/test_roundtrip.py",
    ),
    Mutant(
        "steps that were dropped are not listed",
        "store/_directory.py",
        'self.record.dropped = [{"step": s, "reason": why} for s, why in self.dropped.items()]',
        "self.record.dropped = []",
        "store/test_faults.py::test_capture_goes_on_when_space_returns_and_the_gap_is_recorded",
    ),
    Mutant(
        "a shard that could not be written once is lost",
        "store/_worker.py",
        "attempts = 1 if self._held else 2",
        "attempts = 1",
        "store/test_faults.py::test_a_shard_that_a_passing_error_stopped_is_written_again_from_memory",
    ),
]

ANALYSIS = [
    Mutant(
        "each class gets bins of its own",
        "analysis/subsets.py",
        "return Subset(self.part)",
        "return self",
        "test_analysis.py::test_prepare_sees_the_run_once_and_its_findings_are_recorded",
    ),
    Mutant(
        "further passes count as inputs",
        "analysis/subsets.py",
        "if repeats else probe.repeats == 0",
        "if True else probe.repeats == 0",
        "test_analysis.py::test_further_passes_go_to_estimators_that_ask_for_them",
    ),
    Mutant(
        "classes weigh alike in the conditional information",
        "analysis/subsets.py",
        "return [n / sum(counts) for n in counts]",
        "return [1 / len(counts) for n in counts]",
        "test_analysis.py::test_classes_average_to_the_conditional_information_of_one_layer "
        "test_analysis.py::test_conditional_information_is_derived_where_the_estimator_has_none",
    ),
    Mutant(
        "activations that change during the analysis are mixed",
        "analysis/tasks.py",
        "if held.get(step, expected) != expected:",
        "if False:",
        "test_analysis.py::test_altered_store_under_a_running_analysis_is_an_error",
    ),
    Mutant(
        "two runs of one seed are taken for two draws of the noise",
        "analysis/pairs.py",
        "if partner.path != layer.path and (None in seeds or seeds[0] == seeds[1]):",
        "if False:",
        "test_pairs.py::test_runs_of_one_seed_draw_one_noise",
    ),
    Mutant(
        "noise parts two layers that a path around it joins",
        "analysis/pairs.py",
        "if chain is True else",
        "if True else",
        "test_pairs.py::test_noise_that_a_path_goes_around_does_not_count",
    ),
    Mutant(
        "noise ahead of a recorded value parts it from what follows",
        "analysis/pairs.py",
        "return any(each.key != first.key or (each.noise is not None and each.noise.clean) for each in inner)",
        "return bool(inner)",
        "test_pairs.py::test_noise_parts_what_was_recorded_ahead_of_it_from_what_follows",
    ),
    Mutant(
        "equal views are taken for random ones",
        "analysis/pairs.py",
        "    if not equal:",
        "    if True:",
        "test_pairs.py::test_views_that_are_equal_are_refused",
    ),
    Mutant(
        "snapshots with NaN leave no row",
        "analysis/tasks.py",
        "if step in bad:",
        "if False:",
        "test_analysis.py::test_nonfinite_snapshot_becomes_rows_without_a_value",
    ),
    Mutant(
        "bits of bfloat16 read as whole numbers",
        "analysis/source.py",
        "flat = flat.view(kind)",
        "flat = flat.to(kind)",
        "test_analysis_tensors.py::test_every_narrow_float_is_widened_exactly",
    ),
    Mutant(
        "a chunk that was stopped half way is estimated in part",
        "analysis/plan.py",
        "whole=plan.chunk is not None",
        "whole=False",
        "test_analysis_resume.py::test_a_run_that_has_grown_keeps_the_rows_of_its_last_chunk",
    ),
    Mutant(
        "rows of a class stand for the whole probe",
        "analysis/index.py",
        "return any(not quantity.startswith(CONDITIONAL) for quantity in numbers)",
        "return bool(numbers)",
        "test_analysis.py::test_class_rows_alone_do_not_count_as_the_whole",
    ),
    Mutant(
        "the rows of another probe's activations are found again",
        "analysis/index.py",
        "return steps.setdefault(content, {}).setdefault(quantity, number) == number",
        'return steps.setdefault((content[0], ""), {}).setdefault(quantity, number) == number',
        "test_analysis.py::test_superseded_steps_are_estimated_again",
    ),
]

RESULTS = [
    Mutant(
        "floats with too few digits",
        "results/_csv.py",
        "repr(float(value))",
        'f"{value:.15g}"',
        "results/test_table.py::test_random_doubles_survive_exactly",
    ),
    Mutant(
        "rows of activations that changed stay beside the new ones",
        "results/table.py",
        "else self.take(sorted(last.values()))",
        "else self",
        "results/test_table.py::test_current_takes_the_last_written_of_changed_sources_and_ranges",
    ),
    Mutant(
        "a flag is found in the name of another",
        "results/table.py",
        'name in text.split(";")',
        "name in text",
        "results/test_table.py::test_flag_matches_whole_names",
    ),
    Mutant(
        "an altered table is read",
        "results/_files.py",
        "(len(data) < size or fingerprint(data[:size]) == expected)",
        "len(data) >= 0",
        "results/test_table.py::test_changed_number_is_found_out",
    ),
    Mutant(
        "a rise within the slack violates the data-processing inequality",
        "results/trajectories.py",
        "(rises > slack)",
        "(rises > 0)",
        "results/test_views.py::test_dpi_counts_rises_over_the_slack",
    ),
    Mutant(
        "points of a trajectory in the order of the file",
        "results/trajectories.py",
        "yield key, index[np.lexsort([column[index] for column in reversed(order)])]",
        "yield key, index",
        "results/test_views.py::test_trajectories_are_in_step_order_and_networks_in_depth_order",
    ),
    Mutant(
        "a standard deviation over all runs, not over all but one",
        "results/summary.py",
        "squares.sum(axis=0) / np.maximum(count - 1, 1)",
        "squares.sum(axis=0) / np.maximum(count, 1)",
        "results/test_summary.py::test_spread_against_numpy_and_scipy",
    ),
    Mutant(
        "one odd snapshot makes a maximum",
        "results/summary.py",
        "if y.size > 2:",
        "if y.size < 0:",
        "results/test_summary.py::test_one_odd_snapshot_makes_no_maximum",
    ),
    Mutant(
        "epochs asked for, steps drawn",
        "results/views.py",
        'self.steps if self.against == "step" else self.epochs',
        "self.steps",
        "results/test_series.py::test_a_grid_has_the_time_that_was_asked_for",
    ),
]

PLOTS = [
    Mutant(
        "a point is hollow only where both axes are at their ceiling",
        "results/trajectories.py",
        '(self.flag("i_xt", "saturated") | self.flag("i_ty", "saturated")) & self.present',
        '(self.flag("i_xt", "saturated") & self.flag("i_ty", "saturated")) & self.present',
        "plots/test_plane.py",
    ),
    Mutant(
        "the axes of the plane exchanged",
        "plots/plane.py",
        "i_xt, i_ty = np.where(huge, np.nan, data.i_xt), np.where(huge, np.nan, data.i_ty)",
        "i_ty, i_xt = np.where(huge, np.nan, data.i_xt), np.where(huge, np.nan, data.i_ty)",
        "plots/test_plane.py::test_data_are_the_rows_of_the_table",
    ),
    Mutant(
        "a value above the mean of its null counts as above chance",
        "plots/null.py",
        "np.asarray(self.value > self.null_high)",
        "np.asarray(self.value > self.null)",
        "plots/test_figures.py::test_null_marks_what_is_not_above_chance",
    ),
    Mutant(
        "the ratio of the gradients upside down",
        "plots/snr.py",
        "ratio = divided(mean, std)",
        "ratio = divided(std, mean)",
        "plots/test_figures.py::test_snr_divides_mean_by_std_and_both_by_the_weights",
    ),
    Mutant(
        "step 0 has no place on the logarithmic axis",
        "plots/_artists.py",
        'ax.set_xscale("symlog", linthresh=first, linscale=0.4, base=10)',
        'ax.set_xscale("log", base=10)',
        "plots/test_curves.py::test_step_axis_is_logarithmic_beyond_two_decades_and_shows_zero",
    ),
    Mutant(
        "a distant ceiling squeezes the data",
        "results/limits.py",
        "and high - low >= FILL * (top - low)",
        "and high >= low",
        "plots/test_plot_artists.py::test_limits_take_the_ceiling_in_unless_it_squeezes_the_data",
    ),
    Mutant(
        "a band drawn across a gap",
        "plots/curves.py",
        "ax.fill_between(x, low, high, where=keep,",
        "ax.fill_between(x[keep], low[keep], high[keep],",
        "plots/test_curves.py::test_bands_are_interrupted_where_a_value_has_no_interval",
    ),
]

MUTANTS = [*ESTIMATORS, *CAPTURE, *STORE, *ANALYSIS, *RESULTS, *PLOTS]


class Copy:
    """A copy of the package and its tests in a folder of its own, to be broken and mended again.

    A helper process forks a child for each run of the tests, so that torch and the others are imported once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("infoplane", "tests", "benchmarks", "docs", "examples"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for path in ROOT.iterdir():
            if path.is_file():
                shutil.copy(path, folder)
        # By content: a mutant of the same size in the same second would else be taken for what it was.
        by_content = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(folder / "infoplane", quiet=1, invalidation_mode=by_content)
        self.helper = subprocess.Popen(
            [sys.executable, folder / "tests" / "mutants.py", "--serve"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.helper.communicate()

    def run(self, tests: Iterable[str]) -> tuple[int, str]:
        """Run these tests up to the first that fails: pytest's exit code, and the end of what it says."""
        self.helper.stdin.write(" ".join(f"tests/{test}" for test in tests) + "\n")
        self.helper.stdin.flush()
        return int(self.helper.stdout.readline()), (self.folder / SAID).read_text()[-3000:]

    @contextmanager
    def broken(self, mutant: Mutant) -> Iterator[None]:
        """The package with this fault, for as long as the block runs."""
        path = self.folder / "infoplane" / mutant.file
        text = path.read_text()
        path.write_text(mutant.broken(text))
        try:
            yield
        finally:
            path.write_text(text)

    def survives(self, mutant: Mutant) -> str:
        """What pytest says where the tests of a mutant do not fail as they should; nothing where they do."""
        with self.broken(mutant):
            code, said = self.run(mutant.tests.split())
        return "" if code == FAILED else f"exit code {code}\n{said}"


def serve() -> None:
    """Run the tests of each line of standard input in a child, and answer with its exit code."""
    import h5py  # noqa: F401 - what tests import, but for the package
    import matplotlib.figure  # noqa: F401
    import pandas  # noqa: F401
    import pytest
    import scipy.spatial  # noqa: F401
    import torch  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            said = os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(said, stream.fileno())
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            code = BROKEN
            try:
                code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--timeout={LIMIT}", *line.split()])
                sys.stdout.flush()
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def main(words: Sequence[str]) -> int:
    """Show what becomes of each mutant; 1 where one lives."""
    chosen = [m for m in MUTANTS if not words or any(word in m.file or word in m.fault for word in words)]
    with tempfile.TemporaryDirectory() as folder, Copy(Path(folder)) as copy:
        code, said = copy.run(named_tests(chosen))
        if code:
            print(said, "the tests fail without any mutant", sep="\n")
            return 1
        living = 0
        for mutant in chosen:
            said = copy.survives(mutant)
            living += bool(said)
            print("LIVES " if said else "killed", f"{mutant.file}: {mutant.fault}", said, flush=True)
    print(f"{len(chosen) - living} of {len(chosen)} mutants killed")
    return int(living > 0)


def named_tests(mutants: Iterable[Mutant]) -> list[str]:
    """Every test that one of them names."""
    return sorted({test for mutant in mutants for test in mutant.tests.split()})


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        sys.exit(main(sys.argv[1:]))
