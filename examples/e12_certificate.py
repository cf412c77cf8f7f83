"""What every estimator does where the answer is known (Song and Ermon 2020).

Look for: counting estimators call labels of independent noise informative as soon as most samples have a code of their
own; adaptive bins are the only ones that survive a monotone map of the whole layer; no estimator survives one map for
each unit except bins with edges per unit. It would be falsified by a bound on the wrong side of the sampled value.
"""

from __future__ import annotations

import common

from infoplane import certify


def run(options: common.Options) -> list[common.Outcome]:
    specs = ["adaptive:low=min,null_draws=0", "kde:variance=0.01,null_draws=0", "probe"] if options.quick else None
    findings = certify.certify(specs, samples=300 if options.quick else 1000)
    findings += certify.certify(
        ["adaptive:low=min,null_draws=0", "kde:variance=0.01,null_draws=0"], samples=300
    )  # fmt: skip
    (options.out / "certificate.md").write_text(certify.to_markdown(findings) + "\n")
    print(certify.to_text(findings))
    holds = {(f.estimator.partition(":")[0], f.quantity, f.check): f.holds for f in findings}
    between = certify.sandwich(samples=200 if options.quick else 400)
    return [
        common.Outcome(
            "adaptive bins are unchanged by a monotone map of the layer",
            "unchanged to 1e-9" if holds["adaptive", "I(X;T)", "monotone map"] else "changed",
            "unchanged to 1e-12",
            holds["adaptive", "I(X;T)", "monotone map"],
        ),
        common.Outcome(
            "mixture bounds of fixed noise are unchanged by a rotation",
            "unchanged to 1e-6" if holds["kde", "I(X;T)", "rotation"] else "changed",
            "unchanged to 1e-6",
            holds["kde", "I(X;T)", "rotation"],
        ),
        common.Outcome("lower bound <= sampled value <= upper bound", f"{between.got} in {between.expected}",
                       "4.73 in [4.31, 5.50]", between.holds),
    ]  # fmt: skip


if __name__ == "__main__":
    common.main(run, __doc__)
