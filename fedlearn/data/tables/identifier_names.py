"""What a column identifies people by, going by its name alone, in many languages and scripts.

A name is compared without case, spaces and what else separates its words.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Final

_NAMES: Final = {
    "a person's name": """
        name surname lastname firstname fullname middlename maidenname givenname familyname
        forename patientname clientname customername vorname nachname familienname
        geburtsname patientenname kundenname prénom prenom nomdefamille nomdenaissance
        nompatient nombre apellido apellidos nombrecompleto nombrepaciente cognome nome
        nomecompleto nomepaziente sobrenome nomepaciente voornaam achternaam imię imie
        nazwisko imięinazwisko фамилия имя отчество фио 姓名 名字 患者姓名 病人姓名 客户姓名
        氏名 名前 患者名 성명 이름 환자명 الاسم اسمالمريض soyad soyadı adsoyad नाम""",
    "an e-mail address": """
        email emailaddress mailadresse emailadresse courriel adressemail correo
        correoelectrónico correoelectronico postaelettronica 邮箱 电子邮件 電子郵件 メール
        メールアドレス 이메일 электроннаяпочта البريدالالكتروني""",
    "a phone number": """
        phone phoneno phonenumber telephone telephoneno telephonenumber telno mobile
        mobileno mobilenumber mobilephone cellphone fax telefon telefonnr telefonnummer
        handy handynr handynummer téléphone telephone numérodetéléphone numtel teléfono
        telefono móvil movil cellulare telefone telemóvel telefoon telefoonnummer
        numertelefonu телефон мобильный 电话 手机 手机号 手机号码 电话号码 联系电话 聯絡電話
        電話 電話番号 携帯 전화 전화번호 휴대폰 휴대전화 هاتف رقمالهاتف الجوال फ़ोन""",
    "a social security or identity number": """
        ssn socialsecurity socialsecurityno socialsecuritynumber nationalid nationalidno
        nationalinsuranceno nino nhs nhsno nhsnumber passport passportno passportnumber
        taxid taxno taxnumber iban accountno accountnumber bankaccount cardno cardnumber
        creditcard driverslicense licenseno idcard idnumber idno versichertennr
        versichertennummer sozialversicherungsnr sozialversicherungsnummer svnr
        krankenversichertennummer versicherungsnr versicherungsnummer steuerid steuernr
        steuernummer ausweisnr ausweisnummer personalausweisnr personalausweisnummer
        reisepassnr reisepassnummer kontonr kontonummer numerosecu numérodesécuritésociale
        sécuritésociale numsecu dni nif pasaporte númerodeidentificación codicefiscale
        cartaidentità cpf cnpj cartãocidadão bsn burgerservicenummer sofinummer pesel
        dowódosobisty personnummer fodselsnummer hetu инн снилс паспорт номерпаспорта
        kimlikno tckimlikno tckn 身份证 身份证号 身份证号码 证件号 证件号码 社保号 医保号
        护照号 银行卡号 卡号 身分證 身分證字號 マイナンバー 個人番号 保険証番号 주민등록번호
        주민번호 여권번호 계좌번호 رقمالهوية الرقمالقومي aadhaar aadhar आधार""",
    "a record number": """
        id no uuid guid mrn index pid patid patno patientid patientno patientnr subjectid
        subjid subjectno personid personno clientid clientno customerid customerno userid
        memberid employeeid recordid recordno rowid rowno caseid caseno stayid stayno
        visitid encounterid admissionid admissionno hadmid icustayid accountid orderid
        invoiceno contractno policyno loanid applicationid patientenid patientennr
        patientennummer fallid fallnr fallnummer kundenid kundennr kundennummer aktenid
        aktennr aktennummer aktenzeichen vorgangsid vorgangsnr vorgangsnummer vertragsid
        vertragsnr vertragsnummer antragsid antragsnr antragsnummer personalnr
        personalnummer matrikelnummer numérodedossier numdossier idpatient numpatient
        numéropatient numeroclient idpaciente nhc historiaclínica expediente númerodecliente
        idcliente codicepaziente idpaziente numerocartella prontuário numeroprocesso
        patiëntnummer dossiernummer klantnummer numerpacjenta numerklienta идентификатор
        номерпациента номеркарты кодпациента hastano dosyano 病历号 住院号 门诊号 病案号
        患者编号 病人编号 患者id 病人id 客户编号 客户号 合同号 订单号 学号 工号 病歷號
        患者番号 患者id カルテ番号 顧客番号 환자번호 등록번호 고객번호 رقمالمريض رقمالملف""",
    "an address": """
        address street homeaddress postaladdress streetaddress adresse anschrift straße
        strasse hausnummer adressepostale dirección direccion calle domicilio indirizzo
        residenza endereço endereco morada adres straat woonplaats ulica adreszamieszkania
        адрес улица 地址 住址 家庭住址 现住址 户籍地址 住所地 주소 العنوان पता""",
    "a date of birth": """
        dob birthdate birthday dateofbirth geburtsdatum geburtstag gebdat gebdatum
        datedenaissance ddn fechadenacimiento fechanacimiento nacimiento fnac datadinascita
        datadenascimento geboortedatum dataurodzenia датарождения деньрождения doğumtarihi
        出生日期 出生年月 出生年月日 生日 生年月日 誕生日 생년월일 생일 تاريخالميلاد
        جन्मतिथि""",
}
_AMBIGUOUS: Final = {
    **dict.fromkeys(("nom", "naam", "isim"), "a person's name"),
    **dict.fromkeys(("mail", "eposta"), "an e-mail address"),
    **dict.fromkeys(("tel", "mobil", "portable", "celular"), "a phone number"),
    **dict.fromkeys(
        (
            "account",
            "cf",
            "rg",
            "nus",
            "nss",
            "tin",
            "pan",
            "nie",
            "nir",
            "nip",
            "cpr",
            "documento",
        ),
        "a social security or identity number",
    ),
    **dict.fromkeys(("dossier", "ipp", "uid", "pat", "编号"), "a record number"),
    **dict.fromkeys(("via", "rua", "rue", "domicile", "住所"), "an address"),
    **dict.fromkeys(("born", "naissance", "nascita", "nascimento"), "a date of birth"),
}
"""Names that are other things as well: they count where most values are different."""


def suspect_name(name: str) -> str:
    """The same of a column's name alone: no record has a word in it."""
    key = _key(name)
    found = next((what for what, names in _known_names().items() if key in names), "")
    return _by_name(found) if found else ""


def _by_name(what: str) -> str:
    return f"its name says {what}"


def suspect_ambiguous(name: str) -> str:
    """The same of a name that means other things as well."""
    found = _AMBIGUOUS.get(_key(name), "")
    return _by_name(found) if found else ""


def _key(name: str) -> str:
    """A name without what separates its words."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_.\-/#:]+", "", folded)


@cache
def _known_names() -> dict[str, frozenset[str]]:
    return {what: frozenset(map(_key, names.split())) for what, names in _NAMES.items()}
