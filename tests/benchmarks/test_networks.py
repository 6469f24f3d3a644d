"""The laboratory's own networks: made once and found again, fitted on as many inputs as is said, each with its columns."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.networks import catalogues, columns, factory, making, reading, registry, table, text, training
from benchmarks.scenarios import shipped_scenarios
from benchmarks.shipped import Suite, shipped_tasks
from gradgeo.bench import cache
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.scenarios import Scenario, Task
from gradgeo.errors import ArgumentError, DataError, MissingDependencyError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache" / "bench")


def _train(model: nn.Module, folder: Path, few: int | None) -> dict[str, Tensor]:
    x, y = _held_out(model, folder, few)
    training.fit(model, x, y, epochs=30, rate=0.05)
    return model.state_dict()


def _held_out(model: nn.Module, folder: Path, few: int | None) -> tuple[Tensor, Tensor]:
    x = torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    return x[:few], (x.sum(1) > 0).long()[:few]


TINY = making.Network(
    kind="tiny",
    trained_on="random numbers",
    licence="ours",
    module="table.py",
    files=lambda folder: [folder / "data"],
    build=lambda folder: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)),
    train=_train,
    held_out=_held_out,
    half=60,
    fit=20,
    size=15,
    bounds=None,
)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(registry.NETWORKS, "tiny", TINY)
    (tmp_path / "data").write_bytes(b"1")
    return tmp_path


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.flatten() for p in model.parameters()])


def test_a_network_is_the_same_made_again_and_found_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = making.made("tiny", TINY, tiny)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.accuracy is not None
    assert first.accuracy > 0.9
    assert (first.parameters, first.shape, first.classes) == (26, [3], 2)
    (file,) = (tiny / "cache" / "networks").iterdir()
    found = making.made("tiny", replace(TINY, train=lambda *_: pytest.fail("trained again")), tiny)
    assert (found.accuracy, found.cpu_seconds) == (first.accuracy, first.cpu_seconds)
    assert torch.equal(weights(found.model), weights(first.model))
    file.unlink()
    assert torch.equal(weights(making.made("tiny", TINY, tiny).model), weights(first.model))


def test_other_data_other_code_or_fewer_inputs_make_it_anew(tiny: Path) -> None:
    key = making._key("tiny", TINY, tiny, None)
    assert making._key("tiny", TINY, tiny, 20) != key
    assert making._key("tiny", replace(TINY, module="text.py"), tiny, None) != key
    making._digest.cache_clear()
    (tiny / "data").write_bytes(b"2")
    assert making._key("tiny", TINY, tiny, None) != key


def test_one_that_is_killed_while_it_is_written_leaves_no_half(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(making, "save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            making.made("tiny", TINY, tiny)
    assert list((tiny / "cache" / "networks").iterdir()) == []
    assert making.made("tiny", TINY, tiny).accuracy is not None


@pytest.mark.simulation
def test_as_many_trusted_inputs_to_fit_on_as_the_name_says(tiny: Path) -> None:
    suite = Suite(tiny, inputs=50)
    whole = registry.loaded("tiny", tiny)
    for name, fitted in (("tiny", 20), ("tiny@7", 7), ("tiny@500", len(whole.trusted))):
        found = suite[name]
        assert (found.name, len(found.trusted)) == (name, fitted)
        assert torch.equal(found.trusted, whole.trusted[:fitted])
        assert torch.equal(found.x[found.half :], whole.x[whole.half :])
        assert torch.equal(
            found.logits, making.under_test("tiny", TINY, tiny).logits[: len(whole.x)][_kept(found, whole)]
        )
    assert suite.task("tiny@7").size == 15
    assert torch.equal(suite.task("tiny@7").x, suite.task("tiny").x)
    assert len(Suite(tiny)["digits@30"].trusted) == 30
    for wrong in ("tiny@", "tiny@-3", "tiny@many"):
        with pytest.raises(ArgumentError, match=rf"expected cases to be NAME or NAME@NUMBER.*{wrong}"):
            shipped_tasks(suite, (wrong,), tiny)


def _kept(found: ClassifierUnderTest, whole: ClassifierUnderTest) -> Tensor:
    return torch.cat([torch.arange(found.half), torch.arange(whole.half, len(whole.x))])


def test_the_page_says_what_a_network_took_and_why_one_cannot_be_made(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(folder: Path) -> list[Path]:
        return [reading.packaged("no_such_package", "*.csv", "no-such-wheel")]

    monkeypatch.setitem(registry.NETWORKS, "absent", replace(TINY, files=missing))
    page = networks.run(Suite(tiny, only=("tiny", "absent")))
    rows = {line.split("|")[1].strip(): line for line in page.blocks[-1].splitlines()}
    assert "| 3 | 2 | 26 |" in rows["tiny"]
    assert "pip install no-such-wheel" in rows["absent"]
    assert "no-such-wheel" in page.data["networks"]["absent"]["error"]
    with pytest.raises(ArgumentError, match=r"expected cases to be among factory_animals.*nothing"):
        networks.run(Suite(tiny, only=("nothing",)))
    with pytest.raises(MissingDependencyError, match="needs no-such-wheel"):
        missing(tiny)


def test_a_name_that_both_have_is_one_scenario_for_each_that_which_applies() -> None:
    mine = Scenario("ood", lambda task: torch.ones(1), lambda task: task.size == 1, "near")
    theirs = Scenario("ood", lambda task: torch.zeros(1), lambda task: task.size == 2, "far")
    both = columns._either(mine, theirs)
    tasks = [Task(Suite(Path())["digits"], size) for size in (1, 2, 3)]
    assert [both.applies(task) for task in tasks] == [True, True, False]
    assert [(both.inputs(task).kind, float(both.inputs(task).x)) for task in tasks[:2]] == [("near", 1.0), ("far", 0.0)]


def test_every_network_has_what_is_asked_of_it() -> None:
    kinds = {network.kind for network in registry.NETWORKS.values()}
    assert kinds == {"small CNN", "transfer", "ResNet", "table", "text", "transformer", "ConvNeXt"}
    assert len(registry.NETWORKS) >= 12
    for name, network in registry.NETWORKS.items():
        assert network.licence, name
        assert (networks.__file__ and (Path(networks.__file__).parent / network.module)).is_file(), name


def images_task(model: nn.Module, x: Tensor, name: str) -> Task:
    return Task(ClassifierUnderTest(name, model, x, torch.full((len(x),), -1), len(x) // 2), 6)


def test_what_a_camera_meets_keeps_shape_and_range_and_changes_every_picture() -> None:
    x = torch.rand(12, 1, 32, 32, generator=torch.Generator().manual_seed(0)).sqrt()
    model = factory.FactoryCnn(factory.FACTORIES["factory_tops"]).eval()
    task = images_task(model, x, "factory_tops@200")
    scenarios = columns.network_scenarios(Path(), shipped_scenarios(Suite(Path())))
    for name in columns.SPOILT:
        assert scenarios[name].applies(task), name
        spoilt = scenarios[name].inputs(task).x
        assert spoilt.shape == task.x.shape, name
        assert 0 <= float(spoilt.min()) <= float(spoilt.max()) <= 1, name
        assert bool((spoilt != task.x).flatten(1).any(1).all()), name
    other = images_task(model, x, "digits")
    assert not [name for name in columns.SPOILT if scenarios[name].applies(other)]


@pytest.fixture
def text_task() -> Task:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = text.Tokens().eval()
    characters = " abcdefghijklmnopqrstuvwxyz"
    model.alphabet[2 : 2 + len(characters)] = torch.tensor(list(map(ord, characters)))
    texts = [f"this is sentence {c} about many words" for c in "abcdefghijklmnop"]
    x = model.embedded(model.numbers(texts))
    y = torch.arange(len(x)) % 2
    classifier = ClassifierUnderTest("languages", model, x, y, 4, bounds=None)
    classifier.__dict__["logits"] = torch.eye(8)[y]
    return Task(classifier, 6)


def test_text_is_changed_by_characters_and_found_again_in_its_embeddings(text_task: Task) -> None:
    model = text_task.classifier.model
    assert isinstance(model, text.Tokens)
    known = model.numbers(["this is Ω"])[0]
    assert known[:9].tolist() == [22, 10, 11, 21, 2, 11, 21, 2, text.UNKNOWN]
    plain = model.found(text_task.x)
    assert torch.equal(model.embedded(plain), text_task.x)
    assert torch.allclose(model(plain), model(text_task.x))
    changed = {name: text.TEXT_SCENARIOS[name].inputs(text_task).x for name in ("shuffled words", "typos", "repeated")}
    changed |= {name: text.TEXT_SCENARIOS[name].inputs(text_task).x for name in ("shuffled letters", "two languages")}
    for name, x in changed.items():
        assert x.shape == text_task.x.shape, name
        assert bool((x != text_task.x).flatten(1).any(1).all()), name
    words = model.found(changed["shuffled words"])
    assert torch.equal(words.sort().values, plain.sort().values)
    assert float((model.found(changed["typos"]) != plain).double().mean()) < 0.25


def test_catalogues_and_manual_pages_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [
        (b"", b"Content-Type: text/plain; charset=UTF-8\n"),
        (b"%d file was found in this folder\0%d files", b"%d Datei wurde in diesem Ordner gefunden\0%d Dateien"),
        (b"The same in both, so not translated", b"The same in both, so not translated"),
        (b"short", b"kurz"),
    ]
    folder = tmp_path / "de" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    (folder / "program.mo").write_bytes(_catalogue(pairs))
    (folder / "iso_639.mo").write_bytes(_catalogue([(b"", b""), (b"x" * 30, b"y" * 30)]))
    (folder / "broken.mo").write_bytes(b"no catalogue")
    monkeypatch.setattr(catalogues, "CATALOGUES", tmp_path)
    catalogues.messages.cache_clear()
    assert catalogues.messages("de") == ["%d Datei wurde in diesem Ordner gefunden"]
    with pytest.raises(DataError, match="no message catalogues in"):
        catalogues.messages("xx")
    catalogues.messages.cache_clear()
    monkeypatch.setattr(catalogues, "MANUALS", tmp_path)
    with pytest.raises(DataError, match="no manual pages in"):
        catalogues.manual_lines("xx")


def _catalogue(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A compiled catalogue, as gettext's manual describes it."""
    n, texts, tables = len(pairs), b"", []
    start = 28 + 16 * n
    for column in (0, 1):
        for pair in pairs:
            tables.append(struct.pack("<2I", len(pair[column]), start + len(texts)))
            texts += pair[column] + b"\0"
    return struct.pack("<7I", 0x950412DE, 0, n, 28, 28 + 8 * n, 0, 0) + b"".join(tables) + texts


def test_what_goes_wrong_with_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    model = table.TableClassifier().eval()
    rows = 1 + torch.rand(40, 9, generator=torch.Generator().manual_seed(0))
    model.mean, model.std = rows.mean(0), rows.std(0)
    x = model.standard(rows)
    task = Task(ClassifierUnderTest("diamonds", model, x, torch.full((40,), -1), 20, bounds=None), 20)
    made = {name: s.inputs(task).x for name, s in table.TABLE_SCENARIOS.items() if name != "other strata"}
    for name, found in made.items():
        assert found.shape == task.x.shape, name
        assert not torch.isclose(found, task.x, atol=1e-4).all(1).any(), name
    plain = model.plain(task.x)
    assert torch.allclose(model.plain(made["permuted columns"]), plain.roll(1, 1), atol=1e-4)
    assert (model.plain(made["missing as zero"]).abs() < 1e-4).sum(1).tolist() == [2] * 20
    assert torch.allclose(made["independent columns"].sort(0).values, task.x.sort(0).values)
    assert (made["out of range"].amax(1) > 7).all()


@pytest.mark.data
def test_a_factory_network_is_trained_in_small(gradgeo_data: Path) -> None:
    suite = Suite(gradgeo_data, inputs=20, only=("factory_tops",))
    page = networks.run(suite)
    facts = page.data["networks"]["factory_tops"]
    assert (facts["error"], facts["shape"], facts["classes"]) == (None, [1, 32, 32], 3)
    x, groups = factory.FACTORIES["factory_tops"].pictures(gradgeo_data, "test", 50)
    assert x.shape == (50, 1, 32, 32)
    assert set(groups.tolist()) == {0, 1, 2}
    _, others = factory.FACTORIES["factory_tops"].pictures(gradgeo_data, "test", 50, known=False)
    assert set(others.tolist()) == {-1}
