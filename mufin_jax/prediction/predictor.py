"""Prediction: titles and pictures in, ranked labels out.

`ranker.py` ranks. The labels that are ranked come and go (`living.py`).

A warm server compiles nothing: queries are padded to few shapes (`shapes.py`), all of which
`Predictor.warm_up` compiles (`warming.py`).
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from mufin_jax.data.dataset import Dataset
from mufin_jax.model.mufin import Mufin
from mufin_jax.prediction import ranker
from mufin_jax.prediction.answers import Prediction, named
from mufin_jax.prediction.catalogue import Catalogue
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.prediction.explain import explained, with_reasons
from mufin_jax.prediction.items import Items, check_k, read_ids, read_query
from mufin_jax.prediction.living import LivingRanker
from mufin_jax.prediction.load import load_built, load_run
from mufin_jax.prediction.queries import barred_labels, names_of
from mufin_jax.prediction.warming import warm_up
from mufin_jax.prediction.within import Allowed, allowed_labels
from mufin_jax.retrieval.barred import Within
from mufin_jax.runtime.distributed.mesh import fetch
from mufin_jax.runtime.storage.paths import Given, user_path


class Predictor(LivingRanker):
    """Answers queries: titles and pictures in, ranked labels out.

    With several processes on the model's mesh, all of them must ask the same, and all get the
    answer.

    See `LivingRanker` for its arguments.
    """

    _within: Within | None = None

    @classmethod
    def load_parts(
        cls, folder: Path, model: Mufin, dataset: Dataset, config: PredictConfig | None = None
    ) -> "Predictor":
        """Load what `build_predictor` wrote for this model and dataset.

        Args:
            folder: where it was written.
            model: the encoders and attention blocks that Module IV leaves.
            dataset: the prepared folder the model was trained on.
            config: shortlist and mix; as they were recorded by default.

        Raises:
            InputError: if a file of it is missing or damaged.
        """
        return cls(*load_built(folder, model, dataset, config))

    @classmethod
    def load(
        cls,
        workdir: Given,
        mesh: Mesh | None = None,
        config: PredictConfig | None = None,
        every_part: bool = False,
        catalogue: bool = True,
        lenders: int = 30,
    ) -> "Predictor":
        """Load the predictor of a run whose stage finetune is done.

        Compiled programs are kept in the run's folder, if it can be written and JAX has no other
        place for them. The next process reads them. A server then calls `warm_up`.

        Args:
            workdir: the run's folder.
            mesh: the devices; all of them by default.
            config: shortlist and mix; by default those that the run was measured with or, before
                evaluate is done, those of its settings during finetune.
            every_part: load the parts without a weight, too; they do not rank.
            catalogue: recommend the labels of the current version of the run's catalogue; without,
                those of training.
            lenders: see `LivingRanker`.

        Raises:
            InputError: if the folder holds no finished run.
        """
        found = load_run(user_path(workdir), mesh, config, every_part, catalogue)
        return cls(*found, lenders=lenders)

    def predict(
        self,
        items: Items,
        k: int = 5,
        *,
        exclude: Iterable[object] = (),
        within: Allowed | None = None,
        explain: bool = False,
    ) -> list[list[Prediction]]:
        """Rank labels for items; an item with an "id" never gets the label that it is itself.

        Args:
            items: dicts with a "title", or "titles" of several (an outfit's, say), and "images":
                one picture or a list, each a path, bytes, an open file, a PIL image or an array of
                uint8 pixels. Either kind may be missing: None, NaN and NA count as absent. An "id"
                alone, or an id instead of a dict, asks for that product of the run's data. A table
                of pandas, polars or pyarrow with such columns serves as well.
            k: labels to return for each item; at most the length of the shortlist.
            exclude: ids of labels that no item gets; those that are no label's change nothing.
            within: ids of the only labels that items get; or a dict of conditions on the fields
                that are kept for filters, such as {"category": ["chair", "sofa"],
                "price": (None, 20.0)}: a value, a list of which any will do, or a pair (low, high)
                of numbers. All conditions hold; "id" names ids. None allows all labels.
            explain: whether each prediction tells why it has its score.

        Returns:
            for each item its labels, best first; fewer than k where there are no more.

        Raises:
            InputError: if `items`, `k`, `exclude` or `within` is not of this form, an item has
                nothing that the model sees, or a picture cannot be read.
        """
        check_k(k, self.config.shortlist)
        query, (catalogue, added) = read_query(items), self._labels
        results: list[list[Prediction]] = [[] for _ in query]
        gone = catalogue.barred(read_ids(exclude, "exclude"))
        allowed = None if within is None else self._only(catalogue, within)
        for places, block, pool, bags in self.known_items.blocks(query, ranker.BLOCK):
            known = self.ranking and self.ranking.known(*names_of(block))
            barred = barred_labels(block, catalogue, gone, allowed)
            labels, scores = self.rank(
                pool, bags, len(block), known=known, barred=barred, added=added
            )
            why = None
            if explain:
                why = explained(self, self.embed(pool, bags), labels[:, :k], known, added)
            for row, place in enumerate(places):
                answer = named(catalogue, labels[row], scores[row], k)
                results[place] = with_reasons(answer, why[row]) if why else answer
        return results

    def encode(self, items: Items) -> Float32[np.ndarray, "n d"]:
        """Return x1 of items, in the forms of `predict`: unit vectors, to compare by cosines.

        Raises:
            InputError: as for `predict`.
        """
        query = read_query(items)
        vectors = np.zeros((len(query), self.model.dim), np.float32)
        for places, _, pool, bags in self.known_items.blocks(query, ranker.BLOCK):
            vectors[list(places)] = fetch(self.embed(pool, bags).vector)[: len(places)]
        return vectors

    def __repr__(self) -> str:
        how = f"{self.config.mix:g} c + {1 - self.config.mix:g} a"
        if self.ranking is not None:
            how = f"parts {', '.join(self.ranking.mix.names)}"
        sizes = f"{self.catalogue.num_labels:,} labels, D = {self.model.dim}"
        return f"Predictor({sizes}, lists of {self.config.shortlist}, {how})"

    def _only(self, catalogue: Catalogue, within: Allowed) -> Within:
        """Return the allowed labels; what the last query made of the same ones is used again."""
        labels, last = allowed_labels(catalogue, within), self._within
        if last is None or not np.array_equal(last.labels, labels):
            self._within = last = Within(labels)
        return last

    def warm_up(
        self, points: int = ranker.BLOCK, images: int = 15, extra: int = 0, titles: int = 1
    ) -> None:
        """Compile what queries of common shapes need: the first answer is as fast as the next.

        Programs that the compile cache holds are read from there.

        Args:
            points: items in a batch, at most.
            images: pictures of an item, at most.
            extra: as for `rank_side`.
            titles: of an item, at most.
        """
        warm_up(self, points, images, extra, titles)
