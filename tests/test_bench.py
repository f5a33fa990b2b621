import pytest
import torch

from lib.timing.engine_bench import EngineBench, Row, best_of_5, ppl_error, refine


def test_no_ratio_without_agreement():
    row = Row("x", "chunk")
    row.add(4.0, 1.0, 1e-7)
    row.add(6.0, 2.0, 1e-7)
    assert row.report()["agrees"] and row.report()["ratio"] == pytest.approx(3.5)
    assert row.report()["q20"] <= row.report()["ratio"] <= row.report()["q80"]
    row.add(9.0, 1.0, 1e-3)
    found = row.report()
    assert not found["agrees"] and found["ratio"] is found["q20"] is found["q80"] is None


@pytest.fixture(scope="module")
def bench():
    return EngineBench("tiny", seed=3)


def test_the_ladder_step_agrees(bench):
    row = bench.ladder_step(1).report()
    assert row["agrees"] and row["ratio"] > 0 and row["engine_tok_per_s"] > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_part_v_agrees_in_every_pass(bench, dtype):
    row = bench.part_v(1, dtype).report()
    assert row["agrees"] and row["ratio"] > 0 and "passes" in row["note"]


def test_a_changed_text_is_noticed(bench):
    plan, prompts = bench.plan(70), bench.tokens(5, 128)
    greedy, nll = refine(bench.model, prompts, plan)
    sampled, _ = best_of_5(bench.model, prompts, plan)
    assert ppl_error(nll[0], bench.reference.nll(greedy[0])[-192:]) < 1e-5
    assert bench.greedy_error(greedy[0], 192, plan) == 0
    assert bench.sample_error(sampled[0], plan, seed=0) == 0
    for text in (greedy[0], sampled[0]):
        text[-30] = (text[-30] + 1) % 97
    assert bench.greedy_error(greedy[0], 192, plan) == 1
    assert bench.sample_error(sampled[0], plan, seed=0) == 1


def test_bfloat16_is_the_same_model(bench):
    half = bench.copy("bfloat16")
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.lm_head.weight.float(), bench.model.lm_head.weight, rtol=1e-2, atol=1e-3)
