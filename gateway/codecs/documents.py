"""Payloads of one mapping become lists of documents, each knowing whose it is. Must not know metrics or series.

JSON is decoded into a class of the wanted paths for all payloads in one go; what does not decode so (an object
where the class has none, a byte order mark, not JSON at all) is looked at again by itself. Payloads are never
joined to be parsed together: what one device sends cannot shift what another one's bytes mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from gateway.codecs.paths import ABSENT, column_reader, follow, path_text, read_path
from gateway.codecs.payloads import (
    JSON_BYTES_UNBOUNDED,
    JSON_ERRORS,
    LINES_MAX,
    decode_any_json,
    decode_cbor,
    decode_csv,
    decode_json,
    decode_text,
    detect_format,
    shown,
)
from gateway.codecs.structs import compile_struct
from gateway.core.contracts import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from gateway.codecs.mapping_settings import MapLimits, MappingSettings
    from gateway.codecs.paths import Step
    from gateway.codecs.routing import Work
    from gateway.codecs.structs import Reader

_JSON_STARTS: Final = frozenset({b"{", b"["})


@dataclass(slots=True)
class Cut:
    """Documents of one kind, and the items in them that are mapped each as a message.

    Without `each` the items are the documents and `owners` is None; with it `owners[k]` says which document
    item k is from. `positions`, `rows` are those of `Work`, one for each document. `item_readers`,
    `document_readers` read a wanted path out of a whole list. `time_values` belongs to `Timing`.
    """

    documents: list[Any]
    positions: npt.NDArray[np.intp]
    rows: npt.NDArray[np.intp]
    items: list[Any]
    owners: npt.NDArray[np.intp] | None
    item_readers: Sequence[Reader]
    document_readers: Sequence[Reader]
    time_values: list[Any] = field(default_factory=list)

    @property
    def item_positions(self) -> npt.NDArray[np.intp]:
        """Where the payload of each item stands in the arrivals."""
        return self.positions if self.owners is None else self.positions[self.owners]

    @property
    def item_rows(self) -> npt.NDArray[np.intp]:
        """The row of each item's topic."""
        return self.rows if self.owners is None else self.rows[self.owners]

    def keep_items(self, keep: npt.NDArray[np.bool_]) -> Cut:
        """Return the same documents with the items that `keep` says."""
        assert self.owners is not None
        items = [item for item, is_kept in zip(self.items, keep.tolist(), strict=True) if is_kept]
        return replace(self, items=items, owners=self.owners[keep])

    def take(self, index: npt.NDArray[np.intp]) -> Cut:
        """Return the documents that `index` picks, where each is one item."""
        assert self.owners is None
        documents = [self.documents[k] for k in index.tolist()]
        return replace(
            self,
            documents=documents,
            positions=self.positions[index],
            rows=self.rows[index],
            items=documents,
            time_values=[self.time_values[k] for k in index.tolist()] if self.time_values else [],
        )


class Cutter:
    """Decodes the payloads of one mapping.

    `item_paths` are wanted from each item, `document_paths` from each document; without `item_paths` documents
    come out whole.
    """

    def __init__(
        self,
        settings: MappingSettings,
        *,
        limits: MapLimits,
        item_paths: Sequence[tuple[Step, ...]],
        document_paths: Sequence[tuple[Step, ...]] = (),
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._each = None if settings.each is None else read_path(settings.each)
        self._plain = ([column_reader(path) for path in item_paths], [column_reader(path) for path in document_paths])
        self._typed_each: Reader | None = None
        self._decode: Callable[[bytes], Any] = decode_any_json
        self._typed = self._compile(list(item_paths), list(document_paths)) if item_paths else None

    def _compile(
        self, item_paths: list[tuple[Step, ...]], document_paths: list[tuple[Step, ...]]
    ) -> tuple[list[Reader], list[Reader]] | None:
        compiled = compile_struct(item_paths if self._each is not None else [*item_paths, *document_paths])
        if compiled is None:
            return None
        wanted, readers = compiled
        item_readers, document_readers = readers[: len(item_paths)], readers[len(item_paths) :]
        if self._each is not None and not self._each and not document_paths:
            wanted = GenericAlias(list, (wanted,))
            self._typed_each = list
        elif self._each is not None:
            types = {self._each: GenericAlias(list, (wanted,))}
            compiled = compile_struct([self._each, *document_paths], types=types)
            if compiled is None:
                return None
            wanted, (self._typed_each, *document_readers) = compiled
        self._decode = msgspec.json.Decoder(wanted).decode
        return item_readers, document_readers

    def cut(self, work: Work) -> list[Cut]:
        """Return the documents of `work`; payloads that are none are lost with their reason."""
        payloads = work.payloads
        wanted = self._settings.payload
        if wanted == "auto" and {payload[:1] for payload in payloads} <= _JSON_STARTS:
            wanted = "json"
        if wanted == "json":
            cuts = self._cut_json(work)
        elif wanted == "csv":
            cuts = [self._cut_csv(work, range(len(payloads)))]
        elif wanted == "auto":
            cuts = self._cut_mixed(work)
        else:
            cuts = [self._cut_each(work, {"cbor": self._cbor, "text": decode_text}[wanted], range(len(payloads)))]
        return [cut for cut in cuts if cut.items]

    def _cut_json(self, work: Work) -> list[Cut]:
        if self._decode is decode_any_json and max(map(len, work.payloads), default=0) > JSON_BYTES_UNBOUNDED:
            return self._cut_json_one_by_one(work, range(len(work.payloads)))
        try:
            documents = list(map(self._decode, work.payloads))
        except JSON_ERRORS:
            return self._cut_json_one_by_one(work, range(len(work.payloads)))
        return [self._itemise(work, documents, np.arange(len(documents)), typed=self._typed is not None)]

    def _cut_json_one_by_one(self, work: Work, which: Sequence[int]) -> list[Cut]:
        documents: list[Any] = []
        kept: list[int] = []
        odd: list[int] = []
        decode = self._decode
        for k in which:
            if decode is decode_any_json and len(work.payloads[k]) > JSON_BYTES_UNBOUNDED:
                odd.append(k)
                continue
            try:
                documents.append(decode(work.payloads[k]))
                kept.append(k)
            except JSON_ERRORS:
                odd.append(k)
        cuts = [self._itemise(work, documents, np.array(kept, np.intp), typed=self._typed is not None)]
        return [*cuts, self._cut_each(work, decode_json, odd)] if odd else cuts

    def _cut_mixed(self, work: Work) -> list[Cut]:
        found: dict[str, list[int]] = {"json": [], "cbor": [], "text": [], "csv": []}
        for k, payload in enumerate(work.payloads):
            kind = detect_format(payload)
            found["csv" if kind == "text" and self._settings.columns else kind].append(k)
        cuts = self._cut_json_one_by_one(work, found["json"]) if found["json"] else []
        cuts.append(self._cut_each(work, self._cbor, found["cbor"]))
        cuts.append(self._cut_each(work, decode_text, found["text"]))
        cuts.append(self._cut_csv(work, found["csv"]))
        return cuts

    def _cbor(self, payload: bytes) -> Any:
        return decode_cbor(payload, depth_max=self._limits.depth_max)

    def _cut_each(self, work: Work, decode: Callable[[bytes], Any], which: Sequence[int]) -> Cut:
        documents: list[Any] = []
        kept: list[int] = []
        for k in which:
            try:
                documents.append(decode(work.payloads[k]))
                kept.append(k)
            except MalformedError as error:
                work.lose(int(work.positions[k]), error.reason, str(error))
        return self._itemise(work, documents, np.array(kept, np.intp), typed=False)

    def _cut_csv(self, work: Work, which: Sequence[int]) -> Cut:
        """Cut CSV: its lines are items, whether `each` is given or not."""
        documents: list[list[Any]] = []
        kept: list[int] = []
        for k in which:
            position = int(work.positions[k])
            try:
                lines, odd = decode_csv(
                    work.payloads[k],
                    columns=self._settings.columns,
                    delimiter=self._settings.delimiter,
                    lines_max=min(self._limits.readings_per_payload_max, LINES_MAX),
                )
            except MalformedError as error:
                work.lose(position, error.reason, str(error))
                continue
            for sentence, count in odd:
                work.lose(position, "malformed_csv", sentence, readings=count)
            documents.append(lines)
            kept.append(k)
        return self._with_items(work, documents, documents, np.array(kept, np.intp), self._plain)

    def _itemise(self, work: Work, documents: list[Any], kept: npt.NDArray[np.intp], *, typed: bool) -> Cut:
        """Return the cut of `documents`, which are those of the payloads `kept`."""
        readers = self._typed if typed and self._typed is not None else self._plain
        if self._each is None:
            return Cut(documents, work.positions[kept], work.rows[kept], documents, None, *readers)
        if typed and self._typed_each is not None:
            lists = self._typed_each(documents)
        else:
            lists = [follow(document, self._each) for document in documents]
        good = np.array([self._is_fine(work, int(kept[k]), items) for k, items in enumerate(lists)], np.bool_)
        if not good.all():
            documents = [document for document, is_good in zip(documents, good, strict=True) if is_good]
            lists = [items for items, is_good in zip(lists, good, strict=True) if is_good]
            kept = kept[good]
        if readers is self._plain:
            lists = [self._objects(work, int(k), items) for k, items in zip(kept, lists, strict=True)]
        return self._with_items(work, documents, lists, kept, readers)

    def _with_items(
        self,
        work: Work,
        documents: list[Any],
        lists: list[list[Any]],
        kept: npt.NDArray[np.intp],
        readers: tuple[list[Reader], list[Reader]],
    ) -> Cut:
        owners = np.repeat(np.arange(len(lists)), np.array([len(items) for items in lists], np.intp))
        items = list(chain.from_iterable(lists))
        return Cut(documents, work.positions[kept], work.rows[kept], items, owners, *readers)

    def _is_fine(self, work: Work, k: int, items: Any) -> bool:
        """Whether `each` found a list in payload `k`; if not, the payload is lost."""
        where = path_text(self._each or ()) or "the payload"
        position = int(work.positions[k])
        if items is ABSENT or items is None:
            work.lose(position, "no_readings", f"{where} is missing, the list that holds the readings")
        elif not isinstance(items, list):
            work.lose(position, "wrong_type", f"{where} is {shown(items)}, not a list of objects")
        elif len(items) > self._limits.readings_per_payload_max:
            most = self._limits.readings_per_payload_max
            work.lose(position, "too_many_readings", f"{where} has {len(items)} elements, more than {most}")
        else:
            return True
        return False

    def _objects(self, work: Work, k: int, items: list[Any]) -> list[Any]:
        """Return the objects of a list; what is none is lost."""
        objects = [item for item in items if type(item) is dict]
        if len(objects) < len(items):
            where = path_text(self._each or ()) or "the payload"
            odd = next(item for item in items if type(item) is not dict)
            work.lose(
                int(work.positions[k]),
                "wrong_type",
                f"{where} holds {shown(odd)}, not only objects",
                readings=len(items) - len(objects),
            )
        return objects
