from __future__ import annotations

import gzip
import io
import logging
import time
import zipfile
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from urllib3.util import Retry

from collectkit.body import Download
from collectkit.download import PATIENCE
from collectkit.errors import FetchError
from collectkit.fetch import META_KEY, contradicts, fetch, meta_of
from collectkit.ratelimit import RateLimit
from collectkit.redaction import redact
from collectkit.rejection import Rejected
from collectkit.url import checked, may_know
from tests.replay import Answer, Replay

BODY = b'{"entries": [1, 2, 3]}'
PACKED = gzip.compress(BODY * 100, mtime=0)
FEED = "/feed.json"
AT_ONCE = PATIENCE.new(backoff_factor=0, backoff_jitter=0)


class Asking:
    """A run as far as a source sees it."""

    def __init__(self, meta_attr: dict[str, Any] | None = None, *, is_complete: bool = True) -> None:
        self.meta_attr = meta_attr or {}
        self.is_complete = is_complete
        self.log = logging.LoggerAdapter(logging.getLogger("tests.source"), {})


class City(msgspec.Struct):
    name: str
    people: int


class Feed(msgspec.Struct):
    entries: list[int]


@pytest.fixture
def source():
    with Replay() as replay:
        yield replay


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def zipped(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as into:
        for name, content in files.items():
            into.writestr(f"{name}.json", content)
    return packed.getvalue()


def get(url: str, run: Asking | None = None, **options: Any) -> tuple[Download, bytes]:
    options.setdefault("retries", AT_ONCE)
    with fetch(run or Asking(), url, **options) as feed:
        return feed, b"" if feed.file is None else feed.path.read_bytes()


def refusal(url: str, run: Asking | None = None, **options: Any) -> str:
    with pytest.raises(FetchError) as caught:
        get(url, run, **options)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(redact(url) + ": ")
    assert said.endswith("; the old rows stand and the run is tried again")
    return said


class TestBody:
    def test_the_whole_body_is_a_file_until_the_block_ends(self, source):
        url = source.answer(FEED, Answer(body=BODY))

        with fetch(Asking(), url) as feed:
            path = feed.path
            assert path.read_bytes() == BODY
            assert feed.json(Feed).entries == [1, 2, 3]
            assert (feed.size, feed.unchanged) == (len(BODY), False)

        assert not path.exists()
        assert not path.parent.exists()

    def test_the_request_says_who_asks_and_for_what(self, source):
        url = source.answer(FEED, Answer(body=BODY, content_type="text/csv"))

        get(url, accept="text/csv", headers={"apiKey": "k"})

        sent = source.requests[0].headers
        assert sent["user-agent"].startswith("collectkit")
        assert (sent["accept"], sent["accept-encoding"], sent["apikey"]) == ("text/csv", "gzip", "k")

    def test_a_chunked_body_is_read_whole(self, source):
        url = source.answer(FEED, Answer(body=BODY * 9_000, chunked=True))

        assert get(url)[1] == BODY * 9_000

    @pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/octet-stream", None])
    def test_gzip_is_known_by_its_first_two_bytes_whatever_the_type_says(self, source, content_type):
        url = source.answer(FEED, Answer(body=gzip.compress(BODY), content_type=content_type))

        assert get(url)[1] == BODY

    def test_a_body_compressed_on_the_way_is_unpacked(self, source):
        url = source.answer(FEED, Answer.gzipped(BODY))

        assert get(url)[1] == BODY

    def test_a_gzip_file_compressed_once_more_on_the_way_is_unpacked_twice(self, source):
        url = source.answer("/feed.csv.gz", Answer.gzipped(gzip.compress(BODY)))

        assert get(url)[1] == BODY

    def test_a_gzip_of_several_members_is_unpacked_whole(self, source):
        url = source.answer(FEED, Answer(body=gzip.compress(BODY) + gzip.compress(BODY)))

        assert get(url)[1] == BODY + BODY

    def test_a_plain_body_under_a_gzip_label_is_taken_as_it_is(self, source):
        url = source.answer(FEED, Answer(body=BODY, headers={"Content-Encoding": "gzip"}))

        assert get(url)[1] == BODY

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(PACKED[:-12], id="cut"),
            pytest.param(PACKED[:-8] + bytes(4) + PACKED[-4:], id="checksum"),
            pytest.param(PACKED[:10] + b"\xff" * 8 + PACKED[18:], id="garbled"),
        ],
    )
    def test_broken_gzip_is_refused(self, source, body):
        url = source.answer(FEED, Answer(body=body))

        assert "sent gzip that is broken" in refusal(url)

    def test_an_encoding_that_nobody_asked_for_is_refused(self, source):
        url = source.answer(FEED, Answer(body=b"\x0b\x02\x80", headers={"Content-Encoding": "br"}))

        assert "in the encoding 'br'" in refusal(url)

    def test_an_empty_body_is_refused(self, source):
        assert "sent an empty body" in refusal(source.answer(FEED, Answer()))

    def test_a_page_under_the_type_of_json_is_refused_when_it_is_decoded(self, source):
        url = source.answer(FEED, Answer(body=b"<HTML><BODY>Access Denied</BODY></HTML>"))

        with fetch(Asking(), url) as feed, pytest.raises(FetchError, match="is not JSON, it begins with '<HTML>"):
            feed.json(Feed)

    def test_a_missing_field_is_named(self, source):
        url = source.answer(FEED, Answer(body=b"{}"))

        with fetch(Asking(), url) as feed, pytest.raises(FetchError, match="missing required field `entries`"):
            feed.json(Feed)

    def test_csv_is_decoded_record_by_record_and_a_bad_one_is_rejected(self, source):
        body = b"# made by hand\nname,people\nBrno,400000\nTurku,many\n"
        url = source.answer("/cities.csv.gz", Answer(body=gzip.compress(body), content_type="application/gzip"))

        with fetch(Asking(), url, accept="text/csv") as feed:
            decoded = list(feed.csv(City, key="name", comment="#"))
            texts = list(feed.csv_texts(City, key="name", comment="#"))

        rejected = Rejected(b"Turku,many", "Expected `int`, got `str` - at `$.people`", "Turku")
        assert decoded == [City("Brno", 400_000), rejected]
        assert texts == [["Brno", "400000"], rejected]

    def test_a_page_where_csv_was_asked_for_is_refused_when_it_is_decoded(self, source):
        url = source.answer(FEED, Answer(body=b"<HTML><BODY>Access Denied</BODY></HTML>", content_type="text/plain"))

        with fetch(Asking(), url, accept="text/csv") as feed:
            for read in (feed.csv, feed.csv_texts):
                with pytest.raises(FetchError, match="has no column 'name', its header is '<HTML>"):
                    next(read(City))


class TestArchive:
    def test_the_files_of_an_archive_are_read_one_by_one(self, source):
        url = source.answer("/all.zip", Answer(body=zipped(a=b"1", b=b"2"), content_type="application/zip"))

        with fetch(Asking(), url, accept="application/zip") as feed:
            assert list(feed.members(".json")) == [("a.json", b"1"), ("b.json", b"2")]

    def test_an_archive_that_unpacks_to_more_than_the_limit_is_refused(self, source):
        url = source.answer("/all.zip", Answer(body=zipped(a=bytes(17_000)), content_type="application/zip"))

        with (
            fetch(Asking(), url, accept="application/zip", max_bytes=1000) as feed,
            pytest.raises(FetchError, match="unpacks to 17,000 bytes, more than the limit of 16,000"),
        ):
            next(feed.members(".json"))

    def test_a_page_where_an_archive_was_asked_for_is_refused(self, source):
        url = source.answer("/all.zip", Answer(body=b"<html>", content_type=None))

        with (
            fetch(Asking(), url, accept="application/zip") as feed,
            pytest.raises(FetchError, match="sent a ZIP archive that is broken"),
        ):
            next(feed.members(".json"))


class TestType:
    @pytest.mark.parametrize(
        ("content_type", "accept"),
        [
            ("", "application/json"),
            ("text/plain; charset=utf-8", "application/json"),
            ("application/octet-stream", "text/csv"),
            ("binary/octet-stream", "application/json"),
            ("application/x-gzip", "text/csv"),
            ("application/vnd.oasis+json", "application/json"),
            ("application/vnd.ms-excel", "text/csv"),
            ("application/gzip", "text/csv"),
            ("text/html", "*/*"),
            ("text/html", "text/html"),
        ],
    )
    def test_a_type_that_could_be_it_is_taken(self, content_type, accept):
        assert not contradicts(content_type, accept)

    @pytest.mark.parametrize(
        ("content_type", "accept"),
        [
            ("text/html; charset=utf-8", "application/json"),
            ("TEXT/HTML", "text/csv"),
            ("application/xhtml+xml", "application/json"),
            ("application/json", "text/csv"),
            ("application/xml", "application/json, text/csv"),
        ],
    )
    def test_a_type_that_contradicts_is_refused(self, content_type, accept):
        assert contradicts(content_type, accept)

    def test_a_page_in_html_is_refused_before_its_body_is_read(self, source):
        url = source.answer(FEED, Answer(body=b"<html>", content_type="text/html", drip=60))

        assert "sent text/html where application/json was asked for" in refusal(url)


class TestUnchanged:
    def test_a_second_request_is_conditional_and_a_304_means_unchanged(self, source):
        url = source.answer(FEED, Answer(body=BODY, etag='"1"', last_modified="Mon, 27 Jul 2026 19:00:15 GMT"))
        first, _ = get(url)

        second, _ = get(url, Asking({**first.meta}))

        assert source.requests[1].status == 304
        assert source.requests[1].headers["if-none-match"] == '"1"'
        assert source.requests[1].headers["if-modified-since"] == "Mon, 27 Jul 2026 19:00:15 GMT"
        assert (second.unchanged, second.size, second.sha256) == (True, 0, first.sha256)
        assert second.meta == first.meta

    def test_a_304_that_repeats_no_validators_keeps_those_that_it_confirms(self, source):
        url = source.answer(FEED, Answer(body=BODY, etag='"1"'), Answer(status=304, content_type=None))
        first, _ = get(url)

        second, _ = get(url, Asking({**first.meta}))

        assert second.meta == first.meta

    def test_the_date_alone_is_enough(self, source):
        url = source.answer(FEED, Answer(body=BODY, last_modified="Mon, 27 Jul 2026 19:00:15 GMT"))
        first, _ = get(url)

        assert get(url, Asking({**first.meta}))[0].unchanged

    def test_nothing_can_be_read_from_a_304(self, source):
        url = source.answer(FEED, Answer(body=BODY, etag='"1"'))
        first, _ = get(url)

        with fetch(Asking({**first.meta}), url) as feed, pytest.raises(ValueError, match="look at `unchanged` first"):
            feed.open()

    def test_the_same_bytes_are_unchanged_though_the_source_says_200(self, source):
        url = source.answer(FEED, Answer(body=BODY, etag='"1"'), Answer.gzipped(BODY, etag='"2"'))
        first, _ = get(url)

        second, _ = get(url, Asking({**first.meta}))

        assert source.requests[1].status == 200
        assert second.unchanged
        assert next(iter(second.meta[META_KEY].values()))["etag"] == '"2"'

    def test_other_bytes_are_a_change(self, source):
        url = source.answer(FEED, Answer(body=BODY, etag='"1"'), Answer(body=BODY + b"\n", etag='"2"'))
        first, _ = get(url)

        second, body = get(url, Asking({**first.meta}))

        assert not second.unchanged
        assert body == BODY + b"\n"

    def test_incomplete_data_are_asked_for_without_conditions(self, source):
        url = source.answer(FEED, Answer(body=BODY, etag='"1"'))
        first, _ = get(url)

        second, body = get(url, Asking({**first.meta}, is_complete=False))

        assert "if-none-match" not in source.requests[1].headers
        assert not second.unchanged
        assert body == BODY

    def test_an_author_may_want_the_body_whatever_is_in(self, source):
        url = source.answer(FEED, Answer(body=BODY, etag='"1"'))
        first, _ = get(url)

        second, body = get(url, Asking({**first.meta}), conditional=False)

        assert (source.requests[1].status, second.unchanged, body) == (200, False, BODY)
        assert second.meta == first.meta

    def test_another_address_knows_no_validators(self, source):
        url = source.answer(FEED, Answer(body=BODY, etag='"1"'))
        first, _ = get(f"{url}?year=2025")

        second, _ = get(f"{url}?year=2026", Asking({**first.meta}))

        assert "if-none-match" not in source.requests[1].headers
        assert not second.unchanged
        assert first.meta[META_KEY].keys() != second.meta[META_KEY].keys()

    def test_the_validators_of_several_downloads_go_into_one_checkpoint(self, source):
        one, two = (source.answer(path, Answer(body=BODY, etag=f'"{path}"')) for path in ("/1", "/2"))
        meta = meta_of(get(one)[0], get(two)[0])

        assert get(one, Asking(meta))[0].unchanged
        assert get(two, Asking(meta))[0].unchanged

    def test_a_304_that_nobody_asked_for_is_refused(self, source):
        url = source.answer(FEED, Answer(status=304))

        assert "answered 304 Not Modified" in refusal(url)

    @pytest.mark.parametrize("kept", ["x", {"other": {}}, {"0": "x"}])
    def test_strange_meta_is_no_validator(self, source, kept):
        url = source.answer(FEED, Answer(body=BODY, etag='"1"'))

        assert not get(url, Asking({META_KEY: kept}))[0].unchanged


class TestSecrets:
    def test_an_address_is_shown_without_its_secrets(self):
        shown = redact("https://user:pa55@host.example:8443/feed.json?apiKey=s3cret&page=2&t0ken#fr4gment")

        assert shown == "https://host.example:8443/feed.json?apiKey=***&page=2&***"

    @pytest.mark.parametrize(
        ("query", "shown"),
        [
            ("startIndex=2000&resultsPerPage=2000", "startIndex=2000&resultsPerPage=2000"),
            ("lastModStartDate=2026-06-01T00%3A00%3A00.000%2B00%3A00", None),
            ("page=s3cret", "page=***"),
            ("startIndex=1234567890", "startIndex=***"),
            ("pin=1234", "pin=***"),
            ("STARTINDEX=1", "STARTINDEX=***"),
        ],
    )
    def test_of_a_query_numbers_and_times_are_shown_that_page(self, query, shown):
        assert redact(f"https://host/?{query}") == f"https://host/?{shown or query}"

    def test_what_a_source_says_of_its_status_is_shown_in_part_and_without_what_it_was_sent(self, source):
        told = "Invalid apiKey: K3Y-1, s3 cret, pa5+5, dXNlcjpwYTUrNQ==\x1b[2J " + "x" * 500
        url = source.answer(FEED, Answer(status=404, headers={"message": told}))
        url = url.replace("http://", "http://user:pa%35+5@") + "?token=s3++cret&startIndex=1"

        said = refusal(url, headers={"apiKey": "k3y-1"})

        assert "answered 404 Not Found, saying 'Invalid apiKey: ***, ***, ***, *** [2J xxx" in said
        assert said.count("x") < 200

    @pytest.mark.parametrize(
        "url", ["http://[::1", "http://host:99999999/", "http://u:p@[half/x?k=v", "ann:pa55@host/x"]
    )
    def test_an_address_that_cannot_be_read_is_not_shown_at_all(self, url):
        assert redact(url) == "(an address that cannot be read)"
        assert "is not one of http or https" in refusal(url)

    def test_neither_error_nor_log_nor_meta_holds_a_secret(self, source, caplog):
        path = source.answer(FEED, Answer(body=BODY), Answer(status=503))
        url = path.replace("http://", "http://user:pa55@") + "?apiKey=s3cret"

        feed, _ = get(url)
        said = refusal(url)

        for text in (said, caplog.text, repr(feed)):
            assert "pa55" not in text
            assert "s3cret" not in text
        assert "503 Service Unavailable" in caplog.text

    def test_user_and_password_of_the_address_become_a_header(self, source):
        url = source.answer(FEED, Answer(body=BODY)).replace("http://", "http://user:p%40ss@")

        get(url)

        assert source.requests[0].headers["authorization"] == "Basic dXNlcjpwQHNz"
        assert source.requests[0].target == FEED

    def test_a_password_may_hold_any_character(self, source):
        url = source.answer(FEED, Answer(body=BODY)).replace("http://", "http://user:%E2%82%AC@")

        get(url)

        assert source.requests[0].headers["authorization"] == "Basic dXNlcjrigqw="


class TestRetries:
    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    def test_a_passing_failure_is_tried_again(self, source, status):
        url = source.answer(FEED, Answer(status=status), Answer(body=BODY))

        assert get(url)[1] == BODY
        assert [request.status for request in source.requests] == [status, 200]

    def test_four_tries_are_all(self, source):
        url = source.answer(FEED, Answer(status=503))

        assert "answered 503 Service Unavailable (4 tries)" in refusal(url)
        assert len(source.requests) == 4

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 204])
    def test_a_lasting_failure_is_not_tried_again(self, source, status):
        url = source.answer(FEED, Answer(status=status))

        with pytest.raises(FetchError, match=f"answered {status} ") as caught:
            get(url)
        assert caught.value.status == status
        assert len(source.requests) == 1

    def test_a_body_that_was_cut_is_loaded_again_from_its_begin(self, source):
        url = source.answer(FEED, Answer(body=BODY * 100, cut_after=50), Answer(body=BODY))

        assert get(url)[1] == BODY

    @pytest.mark.parametrize("chunked", [False, True])
    def test_a_body_that_is_always_cut_is_refused(self, source, chunked):
        url = source.answer(FEED, Answer(body=BODY * 100, cut_after=50, chunked=chunked))

        said = refusal(url)

        assert ("the connection broke" if chunked else "the body ended after 50 of 2,200 bytes (4 tries)") in said

    def test_a_source_that_does_not_listen_is_tried_again(self):
        with Replay() as gone:
            url = gone.answer(FEED, Answer(body=BODY))

        said = refusal(url)

        assert "cannot connect: [Errno 111] Connection refused (4 tries)" in said

    def test_a_source_that_does_not_speak_tls_is_said_to(self, source):
        url = source.answer(FEED, Answer(body=BODY)).replace("http://", "https://")

        assert ": TLS failed: " in refusal(url)

    def test_a_name_that_nobody_knows_is_said_to(self):
        said = refusal("http://source.invalid/feed.json", retries=Retry(total=0))

        assert "the name of the host cannot be resolved" in said

    def test_retry_after_is_waited_for(self, source):
        url = source.answer(FEED, Answer(status=429, headers={"Retry-After": "1"}), Answer(body=BODY))

        began = time.monotonic()
        get(url)

        assert 0.95 < time.monotonic() - began < 20

    @pytest.mark.parametrize("as_date", [False, True])
    def test_a_source_cannot_park_a_run_for_an_hour(self, source, as_date):
        until = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
        url = source.answer(FEED, Answer(status=503, headers={"Retry-After": until if as_date else "3600"}))

        said = refusal(url)

        assert "answered 503 Service Unavailable and asks to wait 3" in said
        assert "s, more than 60 s" in said
        assert len(source.requests) == 1

    def test_a_retry_after_that_makes_no_sense_is_as_good_as_none(self, source):
        url = source.answer(FEED, Answer(status=503, headers={"Retry-After": "soon"}), Answer(body=BODY))

        assert get(url)[1] == BODY

    def test_an_author_may_ask_for_another_patience(self, source):
        url = source.answer(FEED, Answer(status=403), Answer(body=BODY))

        assert get(url, retries=Retry(total=1, status_forcelist={403}))[1] == BODY


class TestLimits:
    def test_a_body_that_announces_too_much_is_not_read(self, source):
        url = source.answer(FEED, Answer(body=BODY * 100, drip=60))

        assert "announces 2,200 bytes, more than the limit of 1,000" in refusal(url, max_bytes=1_000)

    def test_a_body_that_announces_nothing_is_cut_at_the_limit(self, source):
        url = source.answer(FEED, Answer(body=BODY * 100, chunked=True))

        assert "sends more than the limit of 1,000 bytes" in refusal(url, max_bytes=1_000)

    def test_a_decompression_bomb_is_cut_while_it_unpacks(self, source):
        bomb = gzip.compress(bytes(40_000_000))
        url = source.answer(FEED, Answer(body=bomb))

        said = refusal(url, max_bytes=100_000)

        assert len(bomb) < 100_000
        assert "unpacks to more than the limit of 1,600,000 bytes" in said

    def test_a_body_that_drips_is_cut_after_the_time_limit(self, source):
        url = source.answer(FEED, Answer(body=BODY * 10_000, drip=0.05))

        began = time.monotonic()
        said = refusal(url, timeout=timedelta(seconds=0.5))

        assert "was not done after 0.5 s" in said
        assert time.monotonic() - began < 20

    def test_a_source_that_says_nothing_is_given_up_after_the_time_limit(self, source):
        url = source.answer(FEED, Answer(body=BODY, delay=60))

        began = time.monotonic()
        said = refusal(url, timeout=timedelta(seconds=0.3))

        assert "nothing more came in time, and no time is left of 0.3 s" in said
        assert time.monotonic() - began < 20

    def test_the_waits_between_tries_count_for_the_time_limit(self, source):
        url = source.answer(FEED, Answer(status=429, headers={"Retry-After": "30"}))

        began = time.monotonic()
        said = refusal(url, timeout=timedelta(seconds=5))

        assert "answered 429 Too Many Requests, and no time is left of 5 s to try again" in said
        assert time.monotonic() - began < 20

    def test_nothing_stays_on_the_disk_after_a_refusal(self, source, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        url = source.answer(FEED, Answer(body=gzip.compress(BODY)[:-9]))

        refusal(url)

        assert list(Path(tmp_path).iterdir()) == []


class TestRateLimit:
    def test_each_try_and_each_redirect_counts(self, source):
        url = source.answer(FEED, Answer(status=503), Answer.redirect("/elsewhere"))
        source.answer("/elsewhere", Answer(body=BODY))
        limit = RateLimit(4, timedelta(hours=1))

        get(url, limit=limit)
        said = refusal(url, limit=limit)

        assert [request.status for request in source.requests] == [503, 302, 200, 302]
        assert "no turn came within 300 s under a request limit of 4 in 3600 s" in said

    def test_a_request_waits_for_its_turn(self, source):
        url = source.answer(FEED, Answer(body=BODY))
        limit = RateLimit(2, timedelta(seconds=0.2))
        began = time.monotonic()

        for _ in range(5):
            get(url, limit=limit)

        assert time.monotonic() - began > 0.4


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_is_followed(self, source, status):
        source.answer("/dated.json", Answer(body=BODY))
        url = source.answer("/current.json", Answer.redirect("/dated.json", status=status))

        assert get(url)[1] == BODY

    def test_five_redirects_are_followed_and_six_are_not(self, source):
        for step in range(6):
            source.answer(f"/{step}", Answer.redirect(f"/{step + 1}"))
        source.answer("/6", Answer(body=BODY))

        assert get(source.base + "/1")[1] == BODY
        assert "redirects more than 5 times" in refusal(source.base + "/0")

    @pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/feed.json", "mailto:me@example.org"])
    def test_a_redirect_out_of_http_is_refused(self, source, target):
        url = source.answer(FEED, Answer.redirect(target))

        assert "is not one of http or https" in refusal(url)

    @pytest.mark.parametrize(("from_scheme", "refused"), [("https", True), ("http", False)])
    def test_a_redirect_may_not_give_up_https(self, from_scheme, refused):
        if refused:
            with pytest.raises(FetchError, match="redirects to http://b/, which would give up https"):
                checked("https://a/", "http://b/", from_scheme=from_scheme)
        else:
            assert checked("https://a/", "http://b/", from_scheme=from_scheme).hostname == "b"

    def test_a_key_does_not_follow_a_redirect_to_another_host(self, source):
        with Replay() as other:
            target = other.answer(FEED, Answer(body=BODY))
            url = source.answer(FEED, Answer.redirect(f"{target}?signature=s3cret"))

            get(url.replace("http://", "http://user:pa55@"), headers={"apiKey": "k", "X-Other": "y"})

        assert source.requests[0].headers["apikey"] == "k"
        assert not {"apikey", "x-other", "authorization"} & other.requests[0].headers.keys()
        assert other.requests[0].headers["accept"] == "application/json"

    def test_a_key_stays_with_a_redirect_on_the_same_host(self, source):
        source.answer("/new", Answer(body=BODY))
        url = source.answer(FEED, Answer.redirect("/new"))

        get(url.replace("http://", "http://user:pa55@"), headers={"apiKey": "k"})

        assert source.requests[1].headers["apikey"] == "k"
        assert source.requests[1].headers["authorization"] == source.requests[0].headers["authorization"]

    def test_a_user_that_a_redirect_names_takes_the_place_of_the_one_before(self, source):
        source.answer("/new", Answer(body=BODY))
        url = source.answer(FEED, Answer.redirect(f"{source.base}/new".replace("http://", "http://other:pw@")))

        get(url.replace("http://", "http://user:pa55@"))

        assert source.requests[1].headers["authorization"] == "Basic b3RoZXI6cHc="

    @pytest.mark.parametrize(
        ("before", "after", "may"),
        [
            ("http://a/", "http://a:80/x", True),
            ("http://a/", "https://a/", True),
            ("http://a:8080/", "https://a/", False),
            ("https://a/", "https://a:8443/", False),
            ("https://a/", "http://a/", False),
            ("https://a/", "https://b/", False),
        ],
    )
    def test_what_one_address_was_sent_the_same_one_may_know_and_the_one_that_is_safer(self, before, after, may):
        assert may_know(urlsplit(before), urlsplit(after)) is may

    def test_a_redirect_without_a_target_is_refused(self, source):
        url = source.answer(FEED, Answer(status=302))

        assert "answered 302 Found" in refusal(url)


class TestProxy:
    def test_the_proxy_of_the_environment_is_asked(self, source, monkeypatch):
        source.answer(FEED, Answer(body=BODY))
        monkeypatch.setenv("http_proxy", source.base.replace("http://", "http://me:pw@"))
        monkeypatch.delenv("no_proxy", raising=False)

        _, body = get("http://source.invalid" + FEED)

        assert body == BODY
        assert source.requests[0].target == "http://source.invalid" + FEED
        assert source.requests[0].headers["proxy-authorization"] == "Basic bWU6cHc="

    def test_no_proxy_is_followed(self, source, monkeypatch):
        url = source.answer(FEED, Answer(body=BODY))
        monkeypatch.setenv("http_proxy", "http://proxy.invalid:1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")

        assert get(url)[1] == BODY
