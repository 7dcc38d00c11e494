"""Laws of several ranks, checked on 2 and on 3 gloo processes. N: samples on a rank   W: ranks"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from moco.contrast import moco_step
from tests.contrast.own_loop import start
from tests.distributed.experiments import STEP_KINDS, STEPS, TOTAL, equal_to_one_process
from tests.distributed.fine_tuning import ITERATIONS, fine_tuned
from tests.distributed.fine_tuning import KINDS as FINE_TUNED
from tests.distributed.launch import run_ranks
from tests.distributed.mechanisms import KINDS, mechanism
from tests.distributed.v3 import moco_v3

Results = list[dict[str, Any]]


@pytest.fixture(scope="module", params=[2, 3], ids=["2 ranks", "3 ranks"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each rank saved; the ranks run once for all laws."""
    return run_ranks(request.param, tmp_path_factory.mktemp("ranks"))


def test_several_ranks_shuffle_by_default(results: Results) -> None:
    assert {rank["shuffled_batchnorm"]["cure"] for rank in results} == {"shuffle"}
    assert {rank["shuffled_batchnorm"]["world"] for rank in results} == {len(results)}


def test_ranks_with_other_seeds_start_from_the_same_model(results: Results) -> None:
    first, *others = (rank["shuffled_batchnorm"]["first"] for rank in results)
    for other in others:
        assert all(torch.equal(first[name], value) for name, value in other.items())
    for name, value in first.items():
        if name.startswith("encoder_q."):
            assert torch.equal(value, first[name.replace("encoder_q.", "encoder_k.")])


def test_queues_and_weights_agree_bitwise_on_every_rank(results: Results) -> None:
    first, *others = (rank["shuffled_batchnorm"] for rank in results)
    assert not torch.equal(first["state"]["queue.keys_KC"], first["first"]["queue.keys_KC"])
    for other in others:
        assert other["pointers"] == first["pointers"]
        for name, value in first["state"].items():
            if "running" not in name:
                assert torch.equal(value, other["state"][name]), name


def test_batchnorm_statistics_are_each_ranks_own(results: Results) -> None:
    first, *others = (rank["shuffled_batchnorm"]["state"] for rank in results)
    for name in ("encoder_q.1.running_mean", "encoder_k.1.running_mean"):
        assert all(not torch.equal(first[name], other[name]) for other in others)


def test_averaged_key_statistics_are_those_of_all_ranks(results: Results) -> None:
    found, name = [rank["averaged_statistics"] for rank in results], "encoder_k.1.running_mean"
    own = torch.stack([rank["own"] for rank in found])
    torch.testing.assert_close(found[0]["first"][name], own.mean(dim=0))
    assert not torch.equal(own[0], own[1])
    for rank in found:
        for key, value in rank["last"].items():
            if key.startswith("encoder_k"):
                assert torch.equal(value, found[0]["last"][key]), key


def test_the_pointer_counts_every_ranks_keys(results: Results) -> None:
    enqueued, expected = 0, []
    for number in range(2 * STEPS):
        enqueued += 4 * len(results) * (1 + number % 2)  # a symmetric step brings both views' keys
        expected.append(enqueued % 29)
    assert results[0]["shuffled_batchnorm"]["pointers"] == expected


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_queues_in_fewer_bits_agree(results: Results, dtype: str) -> None:
    assert results[0][dtype]["queue.keys_KC"].dtype == {"bf16": torch.bfloat16, "int8": torch.int8}[dtype]
    for rank in results:
        for name, value in rank[dtype].items():
            assert torch.equal(value, results[0][dtype][name]), name


def test_activation_checkpointing_changes_nothing_on_ranks(results: Results) -> None:
    for rank in results:
        for name, value in rank["recomputed"]["state"].items():
            assert torch.equal(value, rank["shuffled_batchnorm"]["state"][name]), name


@pytest.mark.parametrize("chunks", ["", " in chunks"])
@pytest.mark.parametrize("kind", list(STEP_KINDS))
def test_ranks_together_equal_one_process_with_the_whole_batch(results: Results, kind: str, chunks: str) -> None:
    alone = equal_to_one_process(0, 1, kind, lambda model: model)
    close = {"rtol": 1e-5, "atol": 1e-5}
    kind += chunks
    torch.testing.assert_close(torch.stack([r[kind]["losses"] for r in results]).mean(dim=0), alone["losses"], **close)
    for rank in results:
        assert rank[kind]["state"].keys() == alone["state"].keys()
        for name, value in rank[kind]["state"].items():
            torch.testing.assert_close(value, alone["state"][name], **close)


def test_a_keys_batchnorm_company_is_not_its_querys(results: Results) -> None:
    per_rank = TOTAL // len(results)
    for number in range(STEPS):
        query_groups = [set(rank["company"]["encoder_q"][number]) for rank in results]
        key_groups = [set(rank["company"]["encoder_k"][number]) for rank in results]
        assert query_groups == [set(range(r * per_rank, (r + 1) * per_rank)) for r in range(len(results))]
        assert set().union(*key_groups) == set(range(TOTAL))  # each key encoded exactly once
        assert all(len(group) == per_rank for group in key_groups)
        assert not any(group in query_groups for group in key_groups)


def test_the_company_changes_from_step_to_step(results: Results) -> None:
    orders = {tuple(sample for rank in results for sample in rank["company"]["encoder_k"][n]) for n in range(STEPS)}
    assert len(orders) == STEPS


def test_keys_come_back_in_their_own_order(results: Results) -> None:
    for rank in results:
        torch.testing.assert_close(rank["own_order"]["keys"], rank["own_order"]["expected"])
    first, other = results[0]["own_order"]["keys"], results[1]["own_order"]["keys"]
    assert torch.cdist(first, other).min() > 1e-3  # not merely all alike


@pytest.mark.parametrize("attempt", ["plain", "symmetric", "shuffle", "padding", "dimensions"])
def test_unequal_batches_are_refused_on_every_rank(results: Results, attempt: str) -> None:
    messages = {rank["unequal_batches"][attempt] for rank in results}
    assert len(messages) == 1
    message = messages.pop()
    assert message.startswith("ranks hold batches of shapes [(4,")
    assert "give every rank the same number of samples, in one shape" in message


def test_an_encoder_that_is_wrapped_already_is_refused_with_what_to_wrap(results: Results) -> None:
    for rank in results:
        assert rank["wrapped_already"].startswith("an encoder inside DistributedDataParallel")
        assert "query=DistributedDataParallel(model.query_side" in rank["wrapped_already"]


def test_ranks_work_together_after_a_refusal(results: Results) -> None:
    assert {rank["unequal_batches"]["afterwards"] for rank in results} == {str(list(range(len(results))))}


def test_agreed_shapes_are_not_compared_again(results: Results) -> None:
    for found in (rank["agreed_shapes"] for rank in results):
        assert torch.equal(found["agreed"], found["checked"])
        assert torch.equal(found["again"], found["checked"])
        assert found["exchanged"] == 2 + 1 + 2, "shapes and rows, rows alone, and both again afterwards"


@pytest.mark.parametrize("kind", KINDS)
def test_other_mechanisms_on_ranks_equal_one_process_with_the_whole_batch(results: Results, kind: str) -> None:
    """The keys' gradient through other ranks' queries included: without it the weights would differ."""
    alone = mechanism(0, 1, kind)
    close = {"rtol": 1e-5, "atol": 1e-5}
    for value in ("losses", "accuracies"):
        torch.testing.assert_close(torch.stack([r[kind][value] for r in results]).mean(dim=0), alone[value], **close)
    for rank in results:
        torch.testing.assert_close(rank[kind]["state"], alone["state"], **close)
        for name, value in rank[kind]["state"].items():
            assert torch.equal(value, results[0][kind]["state"][name]), name


def test_the_gradient_of_gathered_rows_is_the_sum_over_ranks(results: Results) -> None:
    total = float(sum(range(1, len(results) + 1)))
    for rank in results:
        assert torch.equal(rank["gathered_gradient"], torch.full((2, 3), total))


def test_ranks_shuffle_end_to_end_and_need_no_cure_with_a_bank(results: Results) -> None:
    for rank in results:
        assert rank["mechanism_defaults"] == {"end-to-end": "shuffle", "memory-bank": "none"}


def test_moco_v3_on_ranks_equals_one_process_in_every_batchnorm_statistic(results: Results) -> None:
    alone = moco_v3(0, 1)
    close = {"rtol": 1e-4, "atol": 1e-5}
    for value in ("losses", "accuracies"):
        together = torch.stack([rank["moco_v3"][value] for rank in results]).mean(dim=0)
        torch.testing.assert_close(together, alone[value], **close)
    assert alone["joint"] == 0
    for rank in results:
        assert rank["moco_v3"]["joint"] == 7
        for name, value in alone["state"].items():
            torch.testing.assert_close(rank["moco_v3"]["state"][name], value, **close, msg=name)


def test_chunks_of_moco_v3_have_the_batchnorm_statistics_of_all_ranks(results: Results) -> None:
    """As on one process whose chunks are made of theirs."""
    world = len(results)
    by_chunk = torch.arange(TOTAL).view(world, 2, -1).transpose(0, 1).flatten()
    alone = moco_v3(0, 1, chunks=True, order=by_chunk)
    for rank in results:
        for name, value in alone["state"].items():
            torch.testing.assert_close(rank["moco_v3 in chunks"]["state"][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_batchnorm_stays_each_ranks_own_where_it_is_asked_for_and_in_eval_mode(results: Results) -> None:
    first, other = (rank["own_statistics"] for rank in results[:2])
    assert not torch.equal(first["plain"], other["plain"])
    assert torch.equal(first["joint"], other["joint"])
    assert [len(rank["own_statistics"]["alone"]) for rank in results] == list(range(1, len(results) + 1))


def test_loops_of_ones_own_learn_on_ranks_what_one_process_learns(results: Results) -> None:
    """But for the order of a step's keys in the queue: rank by rank."""
    if len(results) != 2:
        pytest.skip("a batch of 32 has no thirds")
    names = start()
    for x_q, x_k in names["batches"]:
        by_rank = (torch.cat([x[0::2], x[1::2]]) for x in (x_q, x_k))
        moco_step(names["model"], *by_rank, names["optimizer"])
    alone = names["model"].state_dict()
    for rank in results:
        assert len(rank["drivers"]) == 3
        for name, state in rank["drivers"].items():
            torch.testing.assert_close(state, dict(alone), rtol=1e-4, atol=1e-5, msg=name)


def test_ranks_whose_gradients_are_not_averaged_are_refused_as_soon_as_they_move(results: Results) -> None:
    for rank in results:
        assert rank["without_average"] == {"from the first": [0, True], "after a warm-up": [2, True]}


def test_precise_statistics_are_those_of_all_ranks_images(results: Results) -> None:
    first, *others = (rank["precise_statistics"] for rank in results)
    for name, value in first["ranks"].items():
        torch.testing.assert_close(value, first["whole"][name], rtol=1e-4, atol=1e-5)
        assert all(torch.equal(value, other["ranks"][name]) for other in others)


@pytest.mark.parametrize("kind", FINE_TUNED)
def test_fine_tuning_on_ranks_equals_one_process_with_the_whole_batch(
    results: Results, kind: str, tmp_path: Path
) -> None:
    if kind not in results[0]:
        pytest.skip("of 3 ranks one task, for time's sake")
    alone, close = fine_tuned(tmp_path, kind), {"rtol": 1e-3, "atol": 1e-4}
    for rank in (each[kind] for each in results):
        torch.testing.assert_close(rank["losses"], alone["losses"], **close)
        for part in ("state", "tested"):
            assert rank[part].keys() == alone[part].keys()
            for name, value in rank[part].items():
                torch.testing.assert_close(value, alone[part][name], **close, msg=lambda text, name=name: name + text)
                assert torch.equal(value, results[0][kind][part][name]), name


@pytest.mark.parametrize("kind", FINE_TUNED)
def test_the_first_rank_tests_and_all_go_on_from_its_checkpoint(results: Results, kind: str) -> None:
    if kind not in results[0]:
        pytest.skip("of 3 ranks one task, for time's sake")
    first, *others = (rank[kind] for rank in results)
    assert first["figures"] > 0
    assert [other["figures"] for other in others] == [0] * len(others)
    assert {rank[kind]["goes_on_at"] for rank in results} == {ITERATIONS}


def test_a_rank_that_is_stopped_stops_all_and_the_run_goes_on_bitwise(results: Results) -> None:
    for rank in results:
        assert rank["stopped_by_one"]["stopped_at"] == 1
        for name, value in rank["stopped_by_one"]["state"].items():
            assert torch.equal(value, rank["semantic"]["state"][name]), name


def test_batchnorm_counts_each_value_alike_where_ranks_have_different_numbers(results: Results) -> None:
    for found in (rank["uneven_batchnorm"] for rank in results):
        torch.testing.assert_close(found["gradient"], found["expected_gradient"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["variance"], found["expected_variance"])
