from __future__ import annotations

import pytest

from benchmarks.peers.catalogue import peers
from benchmarks.peers.peer import MODEL, Rules
from benchmarks.works.catalogue import catalogue, chosen
from benchmarks.works.work import Traffic, human


def test_works_have_names_of_their_own_and_known_peers() -> None:
    names = [work.name for work in catalogue()]
    assert len(set(names)) == len(names)
    assert all(set(work.peers) <= set(peers()) for work in catalogue())


def test_works_are_chosen_by_pattern() -> None:
    assert [work.name for work in chosen(["cpu-rest"])] == ["cpu-rest"]
    assert {work.name for work in chosen(["latency-rest-*"])} == {f"latency-rest-{n}" for n in (100, 500, 1000, 2000)}
    assert len(chosen([])) == len(catalogue())


def test_a_pattern_that_matches_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="unknown work 'cpu-soap'; choose from: cpu-rest"):
        chosen(["cpu-soap"])


@pytest.mark.parametrize("rules", [Rules(10, 10), Rules(10_000, 1_000), Rules(1, 1)])
def test_one_of_the_models_is_the_one_that_is_called(rules: Rules) -> None:
    models = [rules.model_of(number) for number in range(rules.count)]
    assert len(set(models)) == rules.models
    assert models.count(MODEL) == rules.count // rules.models


@pytest.mark.parametrize(("size", "text"), [(30, "30 B"), (10_000, "10 KB"), (2**20, "1 MiB"), (2**24, "16 MiB")])
def test_sizes_for_people(size: int, text: str) -> None:
    assert human(size) == text


def test_traffic_in_words() -> None:
    assert str(Traffic("grpc", streams=16)) == "gRPC predict 30 B, 1 connection x 16 streams"
    assert str(Traffic("rest", connections=16)) == "REST predict 30 B, 16 connections"
