"""The order of findings: causes before consequences, errors before warnings before notes, nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyechart.faults.table import EXPLAINS, FAULTS, Severity, explains, finding, rank
from eyechart.results import Finding

CODES = st.sampled_from(list(FAULTS))
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
FINDINGS = st.lists(
    st.builds(
        lambda code, severity, n: finding(code, f"{code} {n}", "", severity, n=n),
        CODES,
        st.sampled_from(SEVERITIES),
        st.integers(0, 2),
    ),
    max_size=12,
)


def codes(findings: list[Finding]) -> list[str]:
    return [f.code for f in findings]


def found(*names: str) -> list[Finding]:
    return [finding(name, f"about {name}", "") for name in names]


@pytest.mark.parametrize(
    ("seen", "first"),
    [
        (("no-gradient", "constant-prompt", "not-injected"), "not-injected"),
        (("constant-prompt", "labels-shifted"), "labels-shifted"),
        (("collapsed", "constant-prompt", "slots-dead"), "collapsed"),
        (("answer-truncated", "no-labels", "image-truncated"), "image-truncated"),
        (("under-trained", "loss-not-reproduced", "wrong-preprocessing"), "wrong-preprocessing"),
        (("no-gradient", "no-labels"), "no-labels"),
        (("constant-prompt", "pairs-mismatched"), "pairs-mismatched"),
        (("scale-mismatch", "collapsed", "connector-not-loaded"), "connector-not-loaded"),
    ],
)
def test_the_cause_comes_before_what_it_brings_about(seen: tuple[str, ...], first: str) -> None:
    for order in (found(*seen), found(*reversed(seen))):
        ranked = rank(order)
        assert ranked[0].code == first
        assert ranked[0].explained_by == []


def test_an_unexplained_error_comes_before_an_explained_one() -> None:
    ranked = rank(found("constant-prompt", "not-injected", "no-gradient", "resume-drift"))
    assert codes(ranked) == ["not-injected", "resume-drift", "no-gradient", "constant-prompt"]
    assert ranked[3].explained_by == ["not-injected", "no-gradient"]


def test_a_warning_does_not_excuse_an_error() -> None:
    ranked = rank([*found("constant-prompt"), finding("not-injected", "perhaps", "", "warning")])
    assert codes(ranked) == ["constant-prompt", "not-injected"]
    assert ranked[0].explained_by == []


def test_two_findings_of_one_fault_become_one_that_keeps_both_messages() -> None:
    first, second = (
        finding("non-finite", "in the weights", "", "warning"),
        finding("non-finite", "in the loss", "", n=2),
    )
    (merged,) = rank([first, second])
    assert (merged.severity, merged.message, merged.evidence) == (
        "error",
        "in the loss",
        {"n": 2, "also": ["in the weights"]},
    )


def test_a_finding_outside_the_table_is_not_lost_in_silence() -> None:
    with pytest.raises(AssertionError, match="not in the table"):
        rank([Finding(code="unheard-of", severity="error", message="")])


@given(FINDINGS)
def test_ranking_keeps_every_fault_once_and_orders_by_severity(findings: list[Finding]) -> None:
    ranked = rank(findings)
    assert sorted(codes(ranked)) == sorted(set(codes(findings)))
    worst = {f.code: min(SEVERITIES.index(o.severity) for o in findings if o.code == f.code) for f in findings}
    assert [worst[f.code] for f in ranked] == sorted(worst.values())
    assert [f.severity for f in ranked] == [SEVERITIES[worst[f.code]] for f in ranked]
    for f in ranked:
        said = {o.message for o in findings if o.code == f.code}
        assert {f.message, *f.evidence.get("also", [])} == said


@given(FINDINGS)
def test_ranking_does_not_depend_on_the_order_of_different_faults(findings: list[Finding]) -> None:
    single = list({f.code: f for f in findings}.values())
    assert rank(single) == rank(single[::-1])


def test_explanations_name_known_faults_and_none_explains_itself() -> None:
    for cause, consequences in EXPLAINS.items():
        assert cause in FAULTS and set(consequences) <= set(FAULTS)
        assert cause not in consequences and not explains(cause, cause)
    for fault in FAULTS.values():
        assert set(fault.synonyms) <= set(FAULTS)
