"""Which column is what: the label, the site, the person, the time, by its name in many languages.

A name is compared without case, spaces, underscores, hyphens and marks; longer names that contain
a word for a site (`hospital_name`, `所属医院`) count as well. What has no such name is judged by
its values alone, by whoever asks.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Final, Literal

from fedlearn.data.tables.columns import Column

Role = Literal["label", "class", "site", "person", "time"]

_NAMES: Final[dict[Role, str]] = {
    "label": """
        label labels ill sick outcome target class y diagnosis disease default defaulted death died
        dead mortality survived readmitted readmission relapse churn churned fraud status response
        klasse zielgröße zielvariable ergebnis diagnose befund erkrankt krank verstorben gestorben
        tod
        ausfall betrug gekündigt wiederaufnahme rückfall zahlungsausfall
        classe cible résultat diagnostic décès décédé décédée malade réadmission rechute défaut
        fraude
        gravité
        clase etiqueta objetivo resultado diagnóstico enfermo enfermedad fallecido fallecimiento
        muerte
        reingreso recaída impago
        rótulo alvo desfecho doente doença óbito faleceu inadimplência inadimplente reinternação
        etichetta esito diagnosi malato malattia deceduto morte decesso insolvenza frode
        klasse doel uitkomst ziek ziekte overleden heropname wanbetaling fraude
        klasa etykieta wynik diagnoza rozpoznanie chory zgon oszustwo
        метка класс исход диагноз болен болезнь умер смерть дефолт мошенничество отток результат
        sınıf etiket sonuç tanı hasta hastalık ölüm öldü dolandırıcılık
        标签 类别 结局 结果 诊断 患病 是否患病 疾病 死亡 是否死亡 再入院 复发 违约 是否违约 欺诈
        流失 是否流失
        標籤 類別 結局 診斷 違約 詐欺 確診
        ラベル クラス 目的変数 転帰 診断 結果 罹患 発症 死亡 再入院 再発 不正 解約
        라벨 레이블 클래스 결과 진단 질병 사망 재입원 재발 연체 부도 사기 이탈
        التصنيف النتيجة التشخيص المرض مريض الوفاة متوفى احتيال
        लेबल वर्ग परिणाम निदान रोग बीमार मृत्यु धोखाधड़ी""",
    "class": """
        kind type category topic chapter intent sentiment art kategorie thema sujet catégorie
        sentiment categoría tema sentimiento categoria sentimento sentimento argomento onderwerp
        kategoria temat категория тема тональность kategori konu duygu
        情感 情感倾向 情绪 主题 分类 评价 類型 分類 情感傾向 感情 カテゴリ カテゴリー 分類 トピック
        감정 카테고리 분류 주제 الفئة الموضوع المشاعر श्रेणी विषय भावना""",
    "site": """
        site hospital center centre clinic klinik bank branch shop store firm office region country
        krankenhaus standort filiale praxis kanzlei niederlassung haus werk klinikum spital
        hôpital hopital agence succursale établissement clinique cabinet pays magasin
        hospital clínica clinica sede sucursal centro región país oficina tienda banco
        filial agência região unidade loja escritório
        ospedale clinica filiale sede ambulatorio banca regione paese negozio
        ziekenhuis kliniek vestiging filiaal kantoor regio winkel
        szpital klinika oddział przychodnia filia placówka bank
        больница клиника филиал отделение центр банк регион учреждение магазин
        hastane klinik şube banka merkez bölge
        医院 院区 机构 分行 支行 分支机构 门店 中心 站点 地区 银行 律所 分公司
        醫院 院區 機構 分行 分店 診所 據點
        病院 施設 医療機関 支店 店舗 拠点 クリニック 事業所 地域
        병원 의료기관 지점 센터 기관 매장 은행 지역
        المستشفى مستشفى العيادة الفرع فرع المركز البنك المنطقة
        अस्पताल शाखा केंद्र क्लिनिक बैंक क्षेत्र""",
    "person": """
        pid patient patientid patid patno person personid subject subjectid client clientid customer
        customerid userid caseid stayid
        patientenid patientennr patientennummer fallid fallnr kunde kundenid kundennr
        idpatient numpatient idpaciente paciente idcliente idpaziente paziente
        patiëntnummer numerpacjenta пациент номерпациента hastano
        患者 患者id 患者编号 病人 病人id 病人编号 病历号 住院号 客户 客户编号 患者番号 顧客番号
        환자 환자id 환자번호 고객번호 المريض रोगी""",
    "time": """
        time timestamp hour day week month quarter year date datetime when step visit visitno
        visitdate
        charttime chartdate eventtime eventdate timepoint
        zeit zeitpunkt datum tag stunde woche monat jahr besuch visite uhrzeit
        temps heure jour semaine mois année datevisite
        tiempo fecha hora día semana mes año data ora giorno mese anno settimana ano dia
        tijd uur dag week maand jaar czas godzina dzień tydzień miesiąc rok
        время дата час день неделя месяц год zaman tarih saat gün hafta ay yıl
        时间 日期 就诊日期 小时 天 周 月 年 時間 時刻 日付 日時 受診日 시간 날짜 일자 방문일
        الوقت التاريخ الساعة اليوم समय तारीख दिन""",
}
_MEASURES: Final = """
    rank ranking score rating rate ratio count amount total average mean median size share percent
    percentage pct distance population level volume balance age income revenue sales
    rang punkte punktzahl bewertung anzahl quote anteil größe entfernung
    classement note taux nombre distance taille population
    puntuación rango tasa cantidad tamaño distancia población
    classificação pontuação taxa quantidade tamanho distância população
    punteggio classifica tasso numero distanza
    排名 名次 评分 得分 分数 数量 比例 金额 距离 人数 評分 得分 順位 点数 件数
    순위 점수 비율"""
"""Words by which a name ends that is of a number: the rank of a shop is no shop."""
_WORDS: Final = re.compile(r"[\s_.\-/#:?!()（）]+|(?<=[a-zà-ÿ])(?=[A-Z])")
_MORE: Final = re.compile(r"(no|number|nr|nummer|s|号|番号|번호)$")
_CODES: Final = re.compile(r"[\s_.\-/#:?!()（）]+")
_SHORTEST: Final = 4
"""Letters of a word that a longer name may contain and still be called so; of scripts without
letters two signs are a word."""


def _key(name: str) -> str:
    return _CODES.sub("", unicodedata.normalize("NFKC", name).casefold())


@cache
def _names(role: Role) -> frozenset[str]:
    return frozenset(map(_key, _NAMES[role].split()))


def is_called(name: str, role: Role) -> bool:
    """Whether a column is called as one of that role is."""
    key, known = _key(name), _names(role)
    if role == "class":
        return key in known or is_called(name, "label") or _last(name) in known
    if role == "site":
        named = any(_is_word(word) and word in key for word in known)
        return key in known or (named and not _measures(name))
    return key in known or _MORE.sub("", key) in known


@cache
def _measuring() -> frozenset[str]:
    return frozenset(map(_key, _MEASURES.split()))


def _measures(name: str) -> bool:
    """Whether a name is that of a number about what it names, as `SHOP_RANK`, `clinicScore`."""
    last = _key([word for word in _WORDS.split(name) if word][-1])
    foreign = (word for word in _measuring() if word > "\u0500")  # written without spaces
    return last in _measuring() or _key(name).endswith(tuple(foreign))


def _last(name: str) -> str:
    """The last word of a name, as `type` of `contract type`."""
    return _key(re.split(r"[ _-]", name)[-1])


def _is_word(word: str) -> bool:
    return len(word) >= (_SHORTEST if word.isascii() or word[0].isupper() or word < "\u0500" else 2)


def likely_first(found: Sequence[Column], role: Role) -> tuple[str, ...]:
    """Names of columns: those that are called so; then those without gaps, with few values, further
    to the right."""

    def unlikely(place: int) -> tuple[bool, bool, int, int]:
        one = found[place]
        return not is_called(one.name, role), one.missing > 0, one.distinct, -place

    return tuple(found[place].name for place in sorted(range(len(found)), key=unlikely))
