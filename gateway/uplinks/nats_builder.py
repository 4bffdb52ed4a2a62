"""From a lease to messages for a stream: decoded segment by segment, so that ids stay. Must not send or wait.

What other uplinks put into one request, whatever segments it comes from, goes here in messages of its own for each
segment: see nats_pieces.py for why. Otherwise it is what `RequestBuilder` does.
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.codecs.otlp import NO_MARKS, Marks
from gateway.codecs.readings_json import SHORT_NAMES, Messages
from gateway.core.batch import Batch, distinct
from gateway.core.contracts import Signal
from gateway.store.segments import decode_logs, read_header
from gateway.uplinks.nats_pieces import (
    MESSAGE_BYTES,
    LogsPiece,
    MessagesPiece,
    Piece,
    PiecesPart,
    Publications,
    ReadingsPiece,
    small_pieces,
)
from gateway.uplinks.nats_settings import token_of
from gateway.uplinks.parts import MessagesPart
from gateway.uplinks.publishing import JSON, fill
from gateway.uplinks.requests import RequestBuilder, by_form, columns_of, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gateway.core.batch import Attributes
    from gateway.core.ragged import Numbers
    from gateway.store.records import LeasedSegment
    from gateway.uplinks.nats_settings import NatsUplinkSettings
    from gateway.uplinks.parts import Part
    from gateway.uplinks.requests import Encoder, Hand, Repair

    Rejected = dict[str, tuple[int, str]]

# 96 bits: of a million million messages no two have the same by chance.
KEY_BYTES: Final = 12


class NatsBuilder(RequestBuilder):
    """Makes parts of leases and messages of parts. For one thread.

    `payload_bytes_max` says how large the payload of a message may be just now.
    """

    def __init__(
        self,
        settings: NatsUplinkSettings,
        *,
        timeline: Repair,
        encoder: Encoder,
        gateway_attributes: Attributes,
        payload_bytes_max: Callable[[], int],
        counts_series: bool = False,
    ) -> None:
        super().__init__(timeline=timeline, encoder=encoder, counts_series=counts_series)
        self._bytes_max = int(settings.request_bytes_max)
        self._payload_bytes_max = payload_bytes_max
        self._is_json = settings.payload == JSON
        gateway_id = str(dict(gateway_attributes).get(SHORT_NAMES["gateway"], ""))
        template = settings.subject_of_requests()
        self._subjects = {
            signal: fill(template, {"gateway": token_of(gateway_id), "signal": signal.name.lower()}).encode()
            for signal in Signal
        }
        # Two gateways, or two uplinks of one, may publish to one stream.
        self._salt = repr((gateway_id, settings.name, settings.payload)).encode()

    def open(self, hand: Hand) -> Sequence[Part]:
        """Fill `hand.parts` and return them; raise NoClockError, with nothing changed, while times are not known."""
        lease = hand.lease
        late = Marks(backfill=True) if lease.is_backfill else NO_MARKS
        rejected: Rejected = {}
        columns, messages = by_form(lease.segments)
        pieces: list[Piece] = []
        for segment, records in self._decode(messages, self._messages_of, rejected):
            pieces.append(MessagesPiece(self._key(segment), MessagesPart(records, late)))
        if lease.signal is Signal.LOGS:
            for segment, logs in self._decode(columns, lambda segment: decode_logs(segment.body), rejected):
                pieces.append(LogsPiece(self._key(segment), logs, late, 0, len(logs)))
        elif columns and lease.step_s:
            pieces += self._thinned(columns, lease.step_s, rejected)
        else:
            for segment, batch in self._decode(columns, columns_of, rejected):
                pieces.append(self._readings_of(segment, batch, rejected, is_backfill=lease.is_backfill))
        if self._counts_series:
            groups = [group for piece in pieces if isinstance(piece, ReadingsPiece) for group in piece.groups]
            hand.series = len(distinct(np.concatenate([batch.series for batch, _ in groups]))) if groups else 0
        for reason, (readings, message) in rejected.items():
            hand.reject(readings, reason, message)
        small = [one for piece in pieces for one in small_pieces(piece)]
        parts = [PiecesPart(small, lease.signal)] if small else []
        hand.parts = deque(parts)
        return parts

    def _readings_of(
        self, segment: LeasedSegment, batch: Batch, rejected: Rejected, *, is_backfill: bool
    ) -> ReadingsPiece:
        """Return all readings of a segment with Unix times, each with its place in the segment."""
        diluted_s = read_header(segment.body).step_s if segment.readable is None else 0
        places = np.arange(len(batch), dtype=np.int64)
        numbered = Batch(batch.series, batch.time_ns, places, batch.flags, batch.origin)
        groups: list[tuple[Batch, Marks]] = []
        kept: list[Numbers] = []
        for word, is_rejected, some in self._repair(segment.boot, numbered, rejected):
            piece = merge([some])
            groups.append(
                (
                    Batch(piece.series, piece.time_ns, batch.bits[piece.bits], piece.flags, piece.origin),
                    Marks(is_backfill, word, is_rejected, diluted_s),
                )
            )
            kept.append(piece.bits)
        return ReadingsPiece(self._key(segment), groups, kept, 0, len(batch), segment.sequence)

    def _thinned(self, segments: Sequence[LeasedSegment], step_s: float, rejected: Rejected) -> Iterator[ReadingsPiece]:
        """Return what stands for all of the segments."""
        groups: list[tuple[Batch, Marks]] = []
        places: list[Numbers] = []
        count = 0
        for (word, is_rejected, diluted_s), pieces in sorted(self._thin(segments, step_s, rejected).items()):
            batch = merge(pieces)
            step = max(int(step_s), diluted_s)
            groups.append((batch, Marks(backfill=True, time_quality=word, time_rejected=is_rejected, diluted_s=step)))
            places.append(np.arange(count, count + len(batch)))
            count += len(batch)
        # Which readings stand for others depends on their times, and those are known better later.
        told = hashlib.blake2b(digest_size=KEY_BYTES)
        for column in (column for batch, _ in groups for column in (batch.series, batch.time_ns, batch.bits)):
            told.update(np.ascontiguousarray(column).tobytes())
        yield ReadingsPiece(self._key(*segments, more=told.digest()), groups, places, 0, count)

    def _key(self, *segments: LeasedSegment, more: bytes = b"") -> str:
        """Return what names segments: their bytes, and who sends them."""
        digest = hashlib.blake2b(self._salt + more, digest_size=KEY_BYTES)
        for segment in segments:
            digest.update(segment.body)
        return base64.urlsafe_b64encode(digest.digest()).decode()

    # Writing.

    def encode(self, part: Part) -> Publications:
        """Return all messages of a part."""
        assert isinstance(part, PiecesPart)
        written = [one for piece in part.pieces for one in self._write(piece)]
        bodies = [body for _, body in written]
        publications = Publications(b"".join(bodies))
        subjects: list[bytes] = []
        lengths, subject_of, piece_of, places, counts = [], [], [], [], []
        for number, (piece, body) in enumerate(written):
            if isinstance(body, Messages):
                lengths.append(np.diff(body.ends, prepend=0))
                subject_of.append(body.topic_of + len(subjects))
                subjects += body.topics
                assert isinstance(piece, ReadingsPiece)
                places.append(np.concatenate(piece.places))
                counts.append(np.ones(len(body.ends), np.int64))
            else:
                lengths.append(np.array([len(body)]))
                subject_of.append(np.array([len(subjects)]))
                subjects.append(self._subjects[piece.signal])
                places.append(np.array([-1]))
                counts.append(np.array([len(piece)]))
            piece_of.append(np.full(len(counts[-1]), number))
        publications.ends = np.cumsum(np.concatenate(lengths))
        publications.subjects, publications.subject_of = subjects, np.concatenate(subject_of)
        publications.pieces, publications.piece_of = [piece for piece, _ in written], np.concatenate(piece_of)
        publications.places, publications.counts = np.concatenate(places), np.concatenate(counts)
        publications.signal = part.signal
        sizes = np.fromiter(map(len, subjects), np.int64, len(subjects))
        publications.overhead_bytes = int(sizes[publications.subject_of].sum()) + MESSAGE_BYTES * len(publications.ends)
        return publications

    def _write(self, piece: Piece) -> Iterator[tuple[Piece, bytes]]:
        """Return the payloads of a piece, halved until each fits."""
        plain = piece.plain()
        body = super().encode(plain)
        is_small = isinstance(body, Messages) or len(body) <= min(self._bytes_max, self._payload_bytes_max())
        if is_small or len(piece) == 1:
            yield piece, body
            return
        for half in piece.halves():
            if len(half):
                yield from self._write(half)
