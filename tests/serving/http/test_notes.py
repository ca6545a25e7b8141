import logging
import threading

from tsf_llm.serving.http.notes import LONGEST, MOST, hear

log = logging.getLogger("tsf_llm.test_notes")


def test_a_thread_hears_its_own_warnings():
    notes, heard = hear(), []
    other = threading.Thread(target=lambda: log.warning("of another"))
    with notes.listening(heard):
        log.warning("a\nb")
        log.info("no warning")
        other.start()
        other.join()
    log.warning("later")
    assert heard == ["a b"]
    assert hear() is notes


def test_notes_are_bounded():
    heard = []
    with hear().listening(heard):
        for i in range(100):
            log.warning(f"{i}" + "x" * 1000)
    assert len(heard) == MOST
    assert {len(note) for note in heard} == {LONGEST}


def test_what_is_told_once_per_process_is_told_to_every_listener():
    notes, first, second = hear(), [], []
    for heard in (first, second):
        with notes.listening(heard):
            log.warning_once("masked")
            log.warning_once("masked")
    assert first == second == ["masked"]
    log.warning_once("elsewhere")
    with notes.listening(first):
        log.warning("last")
    assert first == ["masked", "last"]
    logging.Logger.warning_once.cache_clear()


def test_what_is_told_once_is_told_to_each():
    first, second, both = [], [], threading.Barrier(2, timeout=10)

    def told(notes):
        with hear().listening(notes):
            both.wait()  # one begins to listen before the other has heard it
            for _ in range(2):
                log.warning_once("no market")

    threads = [threading.Thread(target=told, args=(notes,)) for notes in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert first == second == ["no market"]
