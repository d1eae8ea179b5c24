"""Findings are kept in order and counted."""

from diptych.datasets.findings import ACTIONS, Finding, Findings, Note


def test_a_reason_says_what_became_of_the_image(findings: Findings, note: Note) -> None:
    note("image_invalid", "a.png", "is empty")
    note("near_duplicate", "b.png")
    note("near_duplicate", "c.png", action="skipped")
    assert [(one.place, one.action) for one in findings] == [
        ("a.png", "skipped"),
        ("b.png", "reported"),
        ("c.png", "skipped"),
    ]


def test_findings_are_counted_by_dataset_action_and_reason() -> None:
    findings = Findings()
    for dataset in ("b", "a", "b"):
        findings.of_dataset(dataset)("repeats", "x.png")
    assert findings.counts() == {("a", "repeated", "repeats"): 1, ("b", "repeated", "repeats"): 2}


def test_a_finding_is_taken_as_it_is(findings: Findings) -> None:
    one = Finding(dataset="a", place="p", reason="damaged", action="reported", detail="d")
    findings.add(one)
    assert (list(findings), len(findings)) == ([one], 1)


def test_every_reason_has_an_action() -> None:
    assert set(ACTIONS.values()) == {"skipped", "cropped", "upscaled", "repeated", "reported"}
