"""The results files that are put together from sections, the first two in the write-up's own form."""

from typing import Any


def assemble_validation(results: Any, provenance: dict[str, Any] | None) -> dict[str, Any]:
    """`exp10v_validation_<model>.json`: Part V in the write-up's own form."""
    v1, v2, v3, v4, v5 = (results[name] for name in ("V1", "V2", "V3", "V4", "V5"))
    return {
        "model": results["setup"]["model"]["name"],
        "ppl_2k": v1["ppl_2k"],
        "ppl_full": v1["ppl_full"],
        "n_chunks": v1["n_chunks"],
        "total_tokens": v1["total_tokens"],
        "v2_top10": v2["top10"],
        "v3_focus_head": v3,
        "ranking": results["phases"]["ranking"],
        "v4_cumulative": v4["cumulative"],
        "v4_cumulative_2k": v4["cumulative_2k"],
        "v5_comparison": v5,
        "intervals": {"ppl_2k": v1["ppl_2k_ci"], "ppl_full": v1["ppl_full_ci"]},
        "provenance": provenance,
    }


def assemble_phase3(results: Any, provenance: dict[str, Any] | None) -> dict[str, Any]:
    """`exp10p_phase3_<model>.json`: Part P in the write-up's own form."""
    return {
        "model": results["setup"]["model"]["name"],
        "p1_speed": results["P1"],
        "p2_self_refinement": results["P2"],
        "p3_best_of_n": results["P3"],
        "p4_context_length": results["P4"],
        "provenance": provenance,
    }


QUESTIONS = {"r1_kernels": "K", "r2_thinking": "R2", "r3_scale": "R3", "r4_recovery": "R4"}


def assemble_questions(results: Any, provenance: dict[str, Any] | None) -> dict[str, Any]:
    """`exp10r_open_questions_<model>.json`: Part R, as far as it was measured."""
    measured = {key: results[section] for key, section in QUESTIONS.items() if section in results}
    return {"model": results["setup"]["model"]["name"]} | measured | {"provenance": provenance}


def assemble_robustness(results: Any, provenance: dict[str, Any] | None) -> dict[str, Any]:
    """`exp10s_robustness_<model>.json`: Part S."""
    return {
        "model": results["setup"]["model"]["name"],
        "s1_order": results["S1"],
        "s2_beyond_perplexity": results["S2"],
        "provenance": provenance,
    }


BY_PART = {"v": assemble_validation, "p": assemble_phase3, "r": assemble_questions, "s": assemble_robustness}
