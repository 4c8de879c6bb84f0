"""Which column is what, in many languages and scripts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedlearn.data.check.files import check
from fedlearn.data.check.roles import is_called

TABLES = {
    "English": ("patient_id", "hospital name", "age", "readmitted"),
    "German": ("Patienten-Nr.", "Klinik", "Alter", "Verstorben"),
    "French": ("Num patient", "Hôpital", "Âge", "Décès"),
    "Spanish": ("ID paciente", "Hospital", "Edad", "Fallecido"),
    "Portuguese": ("id_paciente", "Unidade", "Idade", "Óbito"),
    "Italian": ("ID paziente", "Ospedale", "Età", "Esito"),
    "Dutch": ("Patiëntnummer", "Ziekenhuis", "Leeftijd", "Overleden"),
    "Polish": ("Numer pacjenta", "Szpital", "Wiek", "Zgon"),
    "Russian": ("Номер пациента", "Больница", "Возраст", "Диагноз"),
    "Turkish": ("Hasta no", "Hastane", "Yaş", "Tanı"),
    "Chinese": ("患者编号", "所属医院", "年龄", "是否患病"),
    "traditional": ("病人編號", "醫院", "年齡", "診斷"),
    "Japanese": ("患者番号", "病院名", "年齢", "転帰"),
    "Korean": ("환자번호", "병원", "나이", "진단"),
    "Arabic": ("رقم المريض", "المستشفى", "العمر", "التشخيص"),
    "Hindi": ("रोगी", "अस्पताल", "आयु", "निदान"),
}


@pytest.mark.parametrize("language", TABLES)
def test_check__finds_label_and_site_and_drops_the_person(tmp_path: Path, language: str) -> None:
    person, site, age, label = TABLES[language]
    rng = np.random.default_rng(0)
    path = tmp_path / "a.csv"
    ages, wards = rng.integers(20, 90, 60), rng.choice(["x", "y"], 60)
    rows = [f"P{n * 37 % 61},{'ABC'[n % 3]},{ages[n]},{n % 2},{wards[n]}" for n in range(60)]
    path.write_text("\n".join([f"{person},{site},{age},{label},w", *rows]), encoding="utf-8")
    report = check(path)
    assert report.labels[0] == label
    assert report.sites[0] == site
    assert any(word.startswith("scenario.site=") for word in report.settings)


@pytest.mark.parametrize(
    "name", ["website", "unbanked", "age", "分数", "Verkaufswert", "sexo", "income", "offset"]
)
def test_site__is_not_seen_in_other_words(name: str) -> None:
    assert not is_called(name, "person")
    assert not is_called(name, "label")


@pytest.mark.parametrize(
    "name", ["SHOP_RANK", "shop rank", "clinicScore", "Filiale-Bewertung", "region.population",
             "bank_balance", "医院评分", "店舗順位", "hospital_rating"]
)  # fmt: skip
def test_site__is_not_a_number_about_one(name: str) -> None:
    assert not is_called(name, "site")


@pytest.mark.parametrize(
    "name", ["SHOP_NO", "shop", "clinicName", "Filiale-Nr.", "region.code", "bank_branch", "医院",
             "店舗番号", "hospital number", "site", "haus"]
)  # fmt: skip
def test_site__is_called_by_its_name_or_its_number(name: str) -> None:
    assert is_called(name, "site")


def test_check__takes_no_rank_for_the_column_of_sites(tmp_path: Path) -> None:
    path = tmp_path / "shops.csv"
    rows = [f"{20 + i % 37},{i % 5},{'ABC'[i % 3]},{i % 2}" for i in range(90)]
    path.write_text("\n".join(["age,SHOP_RANK,letter,label", *rows]))
    report = check(path)
    assert "SHOP_RANK" not in report.sites
    assert not any(word.startswith("scenario.site") for word in report.settings)


def test_gap__in_a_site_or_a_class_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [
        f"{20 + i % 37},{('NA', 'DE', 'FR')[i % 3]},{('I', 'NA')[i // 7 % 2]}" for i in range(90)
    ]
    path.write_text("\n".join(["age,country,stage", *rows]))
    report = check(path)
    assert not any(word.startswith("scenario.site") for word in report.settings), "it has gaps"
    said = [hint for hint in report.hints if "'NA', which is taken for a gap" in hint]
    assert [hint.split("'")[1] for hint in said] == ["country", "stage"]
