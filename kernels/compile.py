"""Compile every Triton kernel for GPUs that need not be here: `python -m kernels.compile`.

Prints registers per thread, spilled bytes (NVIDIA) or registers (AMD) and shared memory for sm_80, sm_90 and
gfx942, and marks what is over a limit. NVIDIA's numbers come from the `cuobjdump` that Triton brings, AMD's from the
assembly's own notes.
"""

import argparse
import inspect
import json
import re
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels import triton_backward, triton_decode, triton_forward, triton_gpt2
from kernels.triton_backward import EXACT_BACKWARD_TILES, KEY_TILES, QUERY_TILES
from kernels.triton_decode import DECODE_TILES
from kernels.triton_forward import EXACT_TILES, FORWARD_TILES

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED_LIMIT = {"sm_80": 166_912, "sm_90": 232_448, "gfx942": 65_536}  # bytes a block may use
SPILL_LIMIT = {"sm_80": 128, "sm_90": 0, "gfx942": 0}  # bytes; registers on gfx942
TYPES = {"bf16": tl.bfloat16, "fp16": tl.float16, "fp32": tl.float32}
PREPARE_TILE = triton_forward.Tile(64, 0, 4, 1)
PRODUCT_TILE = triton_forward.Tile(4, 0, 4, 3)
COMBINE_TILE = triton_forward.Tile(0, 0, 2, 1)


def jobs(target, thorough=True):
    """`(kernel, type, d_head, tile, mode)` to compile. Every bf16 tile at d = 64 on sm_90, a selection elsewhere."""
    every = target == "sm_90"
    yield from (("forward", "bf16", 64, tile, "relu") for tile in (FORWARD_TILES if every else FORWARD_TILES[:1]))
    yield "key_gradients", "bf16", 64, KEY_TILES[0], "relu"
    yield "query_gradient", "bf16", 64, QUERY_TILES[0], "relu"
    yield "split_kv", "bf16", 64, DECODE_TILES[0], "branch"
    yield "combine", "bf16", 64, COMBINE_TILE, "branch"
    yield "prepare", "bf16", 64, PREPARE_TILE, "relu"
    yield from ((kernel, "bf16", 64, PRODUCT_TILE, "branch") for kernel in ("product", "largest", "advance"))
    if not thorough:
        return
    yield from (("forward", "bf16", 64, tile, "branch") for tile in (FORWARD_TILES if every else FORWARD_TILES[:1]))
    yield "forward", "bf16", 128, FORWARD_TILES[-1], "relu"
    yield "forward", "fp16", 128, EXACT_TILES[0], "relu"
    yield "forward", "fp32", 64, EXACT_TILES[0], "relu"
    yield from (("key_gradients", "bf16", 64, tile, "relu") for tile in (KEY_TILES[1:] if every else []))
    yield from (("query_gradient", "bf16", 64, tile, "relu") for tile in (QUERY_TILES[1:] if every else []))
    yield "key_gradients", "fp32", 64, EXACT_BACKWARD_TILES[0], "relu"
    yield "query_gradient", "fp32", 64, EXACT_BACKWARD_TILES[0], "relu"


MODULES = {
    **dict.fromkeys(("prepare", "query_gradient", "key_gradients"), triton_backward),
    **dict.fromkeys(("split_kv", "combine"), triton_decode),
    **dict.fromkeys(("product", "largest", "advance"), triton_gpt2),
    "forward": triton_forward,
}


def built(target, kernel, kind, d_head, tile, mode):
    """What Triton compiles: `asm` by form, `metadata`."""
    function = getattr(MODULES[kernel], kernel)
    names = list(inspect.signature(function.fn).parameters)
    constants = _constants(target, kernel, kind, d_head, tile, mode)
    constants = {name: value for name, value in constants.items() if name in names}
    types = _argument_types(kernel, kind)
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, what in signature.items()
        if what.startswith("*") or name.startswith("stride")
    }
    source = ASTSource(function, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    return triton.compile(source, target=TARGETS[target], options=options)


def compiled(target, kernel, kind, d_head, tile, mode):
    """One row of the table, as a dict."""
    result = built(target, kernel, kind, d_head, tile, mode)
    usage = _nvidia_usage(result.asm["cubin"]) if "cubin" in result.asm else _amd_usage(result.asm["amdgcn"])
    return {
        "target": target,
        "kernel": kernel,
        "type": kind,
        "d_head": d_head,
        "mode": mode,
        "tile": asdict(tile),
        **usage,
        "shared": result.metadata.shared,
    }


def _constants(target, kernel, kind, d_head, tile, mode):
    """Compile-time arguments of every kernel, with GPT-2 small's sizes; absent pointers are None."""
    half = kind == "bf16"
    tiling = {"ROWS": tile.block_m, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "ROW_SUM": tile.row_sum}
    products = {
        "X": TYPES[kind],
        "W": tl.bfloat16 if half else tl.float32,
        "PRECISION": "tf32" if kind == "fp16" else "ieee",
        "FUSED": half and target.startswith("sm_"),
    }
    heads = {"N_HEAD": 12, "GROUP": 1, "D": d_head, "BLOCK_D": max(16, triton.next_power_of_2(d_head))}
    forward = {"MODE": mode, "LISTED": False, "VISIBLE_ON_DEVICE": kernel == "split_kv", "heads": None}
    absent = {"is_relu": None, "SAVE": True} if mode == "relu" else {"row_sums": None, "SAVE": False}
    decoding = {"N_QUERIES": 1, "ALONE": False, "BLOCK_SPLITS": 8, "SPAN": 1024}
    gpt2 = {"N_IN": 768, "BLOCK_IN": 1024, "STEP": 1024, "EPSILON": 1e-5, "NORMALISE": True, "ACTIVATION": "gelu"}
    gpt2 |= {"ADD": False, "CACHE": False, "N_EMBD": 768, "BLOCK_EMBD": 1024, "D_HEAD": 64, "N_POSITIONS": 1024}
    gpt2 |= {"N_SPANS": 50, "BLOCK_SPANS": 64, "N_VOCAB": 50257}
    return tiling | products | heads | forward | absent | decoding | gpt2


def _argument_types(kernel, kind):
    """Types of the run-time arguments; the rest are int32."""
    element, sums = f"*{kind}", "*fp32"
    types = dict.fromkeys(("q", "k", "v", "z", "grad", "dq", "dk", "dv"), element)
    types |= dict.fromkeys(("weight", "keys", "values", "embedding", "places"), element)
    types |= dict.fromkeys(("row_sums", "correction", "parts", "sums", "peaks"), sums)
    types |= dict.fromkeys(("x", "bias", "gain", "shift", "out", "logits", "best"), sums)
    types |= dict.fromkeys(("is_relu", "where", "tokens", "position", "n_prompt"), "*i32")
    types |= {"scaled": element if kind == "bf16" else sums, "scale": "fp32"}
    return types | ({"n_visible": "*i32"} if kernel in ("split_kv", "advance") else {})


def _nvidia_usage(cubin):
    """Registers per thread and bytes of stack, where spilled registers go."""
    tool = next(Path(triton.__file__).parent.glob("backends/nvidia/bin/cuobjdump*"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    usage = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text))
    return {"registers": int(usage["REG"]), "spilled": int(usage["STACK"]) + int(usage["LOCAL"])}


def _amd_usage(assembly):
    """Vector registers per lane (accumulation registers included) and how many of them were spilled."""
    notes = dict(re.findall(r"\.(vgpr_count|agpr_count|vgpr_spill_count):\s+(\d+)", assembly))
    return {"registers": int(notes["vgpr_count"]), "spilled": int(notes["vgpr_spill_count"])}


def table(thorough=True):
    """Every row, compiled now."""
    return [compiled(target, *job) for target in TARGETS for job in jobs(target, thorough)]


def exceeded(row):
    """Which limits a row breaks."""
    target = row["target"]
    limits = {
        "registers": 512 if target.startswith("gfx") else 255,
        "spilled": SPILL_LIMIT[target],
        "shared": SHARED_LIMIT[target],
    }
    return [name for name, limit in limits.items() if row[name] > limit]


def line(row):
    """One row of the printed table."""
    tile = row["tile"]
    shape = f"{tile['block_m']}x{tile['block_n']} w{tile['warps']} s{tile['stages']} {tile['row_sum']}"
    return (
        f"{row['target']:7} {row['kernel']:15} {row['type']} d{row['d_head']:<4} {row['mode']:7} {shape:20} "
        f"registers {row['registers']:4}  spilled {row['spilled']:4}  shared {row['shared']:7,}"
        + "".join(f"  over the limit: {name}" for name in exceeded(row))
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the rows as JSON, too")
    out = parser.parse_args().out
    rows = table()
    print(f"Triton {triton.__version__}", *map(line, rows), sep="\n")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"triton": triton.__version__, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
