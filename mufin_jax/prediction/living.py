"""A ranker whose labels come and go.

`catalogue.py` knows the labels, `changing.py` changes them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.kept_fields import FILE, KeptFields
from mufin_jax.data.manifest import AGAIN
from mufin_jax.model.mufin import Mufin
from mufin_jax.prediction import changing
from mufin_jax.prediction.added import Added, Base
from mufin_jax.prediction.catalogue import Catalogue
from mufin_jax.prediction.config import PredictConfig, check_count
from mufin_jax.prediction.items import Items
from mufin_jax.prediction.known_items import KnownItems
from mufin_jax.prediction.label_cache import LabelCache
from mufin_jax.prediction.part_ranking import PartRanking
from mufin_jax.prediction.ranker import Ranker
from mufin_jax.prediction.versions import Versions
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.runtime.storage.files import damaged


class LivingRanker(Ranker):
    """Ranks the labels of training, without those that were removed, and those that were added.

    Args:
        model: the encoders and attention blocks that Module IV leaves.
        index: label entries under this model.
        cache: the labels' bags, as A_C sees them, and classifiers.
        dataset: the prepared folder the model was trained on: tokenizer, picture size, titles.
        config: shortlist and mix.
        ranking: the parts and weights that rank instead of the paper's mix of c and a.
        versions: the folder of the catalogue's versions; None keeps changes in memory.
        lenders: how many labels of training lend an added label a share of their votes and walks
            (the parts v, g, sg, tv); 0 gives it what an untrained label of training has.
    """

    def __init__(
        self,
        model: Mufin,
        index: LabelIndex,
        cache: LabelCache,
        dataset: Dataset,
        config: PredictConfig,
        ranking: PartRanking | None = None,
        versions: Versions | None = None,
        lenders: int = 30,
    ):
        check_count("lenders", lenders, 0)
        super().__init__(model, index, cache, dataset, config, ranking)
        self.versions, self.lenders = versions, lenders
        self._known_items: KnownItems | None = None
        catalogue = Catalogue.of(dataset.labels, model.dim, load_kept_fields(dataset))
        # Replaced together, in one step: a query in another thread sees both or neither.
        self._labels: tuple[Catalogue, Added | None] = catalogue, None
        if versions is not None:
            self.refresh()

    @property
    def known_items(self) -> KnownItems:
        """The items of the run's own data."""
        if self._known_items is None or self._known_items.dataset is not self.dataset:
            self._known_items = KnownItems(self.dataset, self.loader)
        return self._known_items

    @property
    def catalogue(self) -> Catalogue:
        """The labels that can be recommended now."""
        return self._labels[0]

    @property
    def added(self) -> Added | None:
        """The added labels, ready to answer; None if there are none."""
        return self._labels[1]

    def change_to(self, catalogue: Catalogue) -> None:
        """Recommend the labels of a catalogue; every process must call this function."""
        added = None
        if len(catalogue.added):
            mix, lenders = self.config.mix, self.lenders
            base = Base(self._heads, self.index, self.cache, mix, self.ranking, lenders)
            added = Added.build(catalogue.added, base)
        self._labels = catalogue, added

    def add_labels(self, items: Items, save: bool = True) -> None:
        """Recommend more labels from now on, without training.

        Args:
            items: in the forms of `predict`, each with an "id", and perhaps "related": the ids of
                training points that go with it, and values of the fields that are kept for
                filters. An item that is a removed label of training, and has neither texts nor
                pictures, comes back as it was trained, with the fields that it had.
            save: whether a predictor of a run's folder writes the next version of its catalogue;
                without, the change is lost with this predictor.

        Raises:
            InputError: if an item has no id, an id that is recommended already, or nothing to see.
            Held: if another process writes a version at this moment.
            DiskError: if the version cannot be written.
        """
        changing.add(self, items, save)

    def remove_labels(self, ids: Iterable[object], save: bool = True) -> None:
        """Recommend labels no more; see `add_labels`.

        Args:
            ids: of labels that are recommended.
            save: as for `add_labels`.

        Raises:
            InputError: if an id is that of no label that is recommended.
        """
        changing.remove(self, ids, save)

    def update_labels(self, items: Items, save: bool = True) -> None:
        """Replace labels by items with the same ids, in one step; see `add_labels`.

        A label of training that is updated loses what it has learned: its classifier and centroid.
        """
        changing.update(self, items, save)

    def keep_fields(
        self, items: Iterable[Mapping[str, Any]], fields: Sequence[str], save: bool = True
    ) -> int:
        """Keep fields of labels for filters (`within`), or replace their values.

        Args:
            items: dicts, each with an "id" and the fields; what they lack is missing. Ids of no
                label change nothing, and other labels keep what they have.
            fields: names; ":number" or ":text" after one gives its kind, where its values do not.
            save: as for `add_labels`.

        Returns:
            how many items are labels.

        Raises:
            InputError: if no item is a label, or none has a value in a field.
        """
        return changing.keep_fields(self, items, fields, save)

    def refresh(self) -> bool:
        """Move to the current version of the catalogue; return whether that is another one.

        Changes that were not saved are lost.
        """
        return changing.refresh(self)

    def roll_back(self) -> None:
        """Make the version before the current one of the catalogue current again, for all.

        Raises:
            InputError: if there is none.
        """
        changing.roll_back(self)


def load_kept_fields(dataset: Dataset) -> KeptFields | None:
    """Return the fields of the labels that preparation kept for filters; None if it kept none."""
    if FILE not in dataset.manifest.get("files", {}):
        return None
    with damaged(f"{dataset.path / FILE} cannot be read ({{reason}}): prepare the data {AGAIN}"):
        found = KeptFields.load(dataset.path / FILE)
        if len(found) != dataset.num_labels:
            raise ValueError(f"{len(found)} of {dataset.num_labels} labels")
        return found
