"""What the tests of `docs/cluster.md` run in the pipeline's place: it scores a tiny model with the workers it is given.

`python cluster_client.py FOLDER -m lib.pipeline report --profile NAME -p workers ADDRESS` prints how many there were.
"""

import sys
from pathlib import Path

import tiny_models

from lib.cluster.opening import opened
from lib.engine.elsewhere import Source
from lib.engine.interventions import Plan
from lib.engine.scoring import Evaluator
from lib.model import loading
from lib.params import check
from lib.store import Store


def main(folder, *words):
    assert words[:3] == ("-m", "lib.pipeline", "report") and words[-3:-1] == ("-p", "workers"), words
    place = folder / "tiny"
    tiny_models.gpt2().save_pretrained(place)
    key, model = loading.fingerprint(place), loading.load_model(place)
    plans = [Plan(), Plan.of("relu", [(1, 0), (2, 3)])]
    found = {}
    with opened(check("workers", words[-1]), "cpu") as pool:
        for name, elsewhere in (("here", None), ("there", pool.model(Source(str(place), key, "float32", "cpu")))):
            engine = Evaluator(model, tiny_models.tokens(4), Store(folder / name), model_key=key, elsewhere=elsewhere)
            scores = engine.score(plans, 4)
            found[name] = {plan: own.tobytes() for plan, own in scores.items()}
        assert found["here"] == found["there"]
        print(len(pool.client.nthreads()), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
