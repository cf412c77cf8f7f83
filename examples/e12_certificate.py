"""What every estimator does where the answer is known (Song and Ermon 2020).

Look for: counting estimators call labels of independent noise informative as soon as most samples have a code of their
own; of bins, kernels and neighbours only bins of equal counts survive a monotone map of the whole layer, and one map
for each unit only with edges per unit. Trained estimators survive both, since they begin with the ranks of each unit.
It would be falsified by a bound on the wrong side of the sampled value.
"""

from __future__ import annotations

import common

from infoplane import certify
from infoplane.estimators import available

ADAPTIVE, PER_UNIT, KDE = "adaptive:low=min", "adaptive:low=min,per_unit=true", "kde:variance=0.01"


def run(options: common.Options) -> list[common.Outcome]:
    samples, ranked, specs = 300, [], [ADAPTIVE, KDE, "binning", "probe"]
    if not options.quick:  # "auto" takes one of the others
        samples, ranked, specs = 1000, ["critic", "flow"], sorted({*available(), *certify.VARIANTS} - {"auto"})
    findings = certify.certify([*specs, PER_UNIT], samples=samples)
    (options.out / "certificate.md").write_text(certify.to_markdown(findings) + "\n")
    print(certify.to_text(findings))

    def survives(check: str) -> list[str]:
        """Estimators all of whose quantities pass a check."""
        names = dict.fromkeys(f.estimator for f in findings)
        return [n for n in names if all(f.holds for f in findings if f.estimator == n and f.check == check)]

    between = certify.sandwich(samples=200 if options.quick else 400)
    same, rotated, each = map(survives, ("monotone map", "rotation", "monotone map per unit"))
    fooled = [n for n in (ADAPTIVE, "binning") if n not in survives("independent noise")]
    return [
        common.Outcome("a monotone map of the layer leaves bins of equal counts as they are, and what ranks the units",
                       ", ".join(same), "adaptive bins, to 1e-12", same == [ADAPTIVE, *ranked, PER_UNIT], False),
        common.Outcome("one map for each unit only bins with edges per unit, and what ranks the units",
                       ", ".join(each), "-", each == [*ranked, PER_UNIT], False),
        common.Outcome("mixture bounds of fixed noise are unchanged by a rotation, to 1e-6", ", ".join(rotated),
                       "kde and dse, to 1e-6", KDE in rotated, about_y=False),
        common.Outcome("counting estimators find information about labels in independent noise", ", ".join(fooled), "-",
                       len(fooled) == 2, about_y=False),
        common.Outcome("lower bound <= sampled value <= upper bound", f"{between.got} in {between.expected}",
                       "4.73 in [4.31, 5.50]", between.holds, about_y=False),
    ]  # fmt: skip


if __name__ == "__main__":
    common.main(run, __doc__)
