"""The symbols of the generated dataset: which ones, their names, and how each one is drawn."""

import unicodedata
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Symbols of DejaVu Sans in a fixed order. First pictograms, picked by eye: things that one can name
# and tell apart at 20 pixels; then what is usable of Unicode's blocks of symbols, arrows and
# mathematics, and of the letters of its scripts. Left out are what is not neutral (religious and
# political symbols, weapons, hazards, gestures), glyphs that are tiny or needle-like, letters with
# accents, and what looks like an earlier symbol or its mirror image: at 16 x 16 pixels the cosine
# of the two is above 0.93. So classes stay apart under horizontal flips.
SYMBOLS = (
    "☂☃☁☀★☎☕☘☛☾☺♚♛♜♝♞♟♔♖♘♠♥♦♣♨♪♬♭♯♻♿⚀⚁⚂⚃⚄⚅⚓⚖⚗⚘⚙⚛⚠⚡⛃✂✆✇✈✉✍✎✒✔✘✦✪✯✳✴✺✿❀❂❄❆❖❢❦❶➔➤➲⌂⌘⌨⌫⏎⏏⌬🐭🐮"
    "🐱🐵😀😎😭😱😷▣▦◉◐⬟⬆♆♎♏♉♊♋♌∞☄☆☇☈☉☊☋☌☍☏☐☑☒☔☖☗☜☡☹☻☼☽♃♄♅♈♍♐♑♒♓♕♗♙♡♢♤♧♩♫♲♳♵♶♸♺♼♽♾"
    "⚆⚇⚉⚞⚟⚪⚬⛀⛁⛂✁✃✄✏✐✑✓✕✖✗✢✧✩✫✬✭✮✰✱✲✵✹✻✾❁❃❅❈❉❍❏❐❚❛❜❝❞❡❤❥❧❹❻❿➀➁➂➃➄➅➆➇➈➉➋➓➘➙➚➛➜➝➟➠➢➣➥➧➨➩➪➫➬➭➮➯➱➳➴"
    "➵➶➷➸➹➺➻➼➽➾😂😄😋😑😓😕😖😗😘😜😟😦😨😰😳😴😸😹😼🙀■▤▥▧▩▬▭▮▯▰▱△▵▶▷▹►▻▼▽▿◃◆◇◈◊○◌◍◎◒◓◔◕◖◘◙◚◛◜"
    "◞◟◠◡◢◤◧◩◪◬◭◯◴◵◸◺⬀⬁⬂⬃⬄⬇⬈⬊⬍⬎⬏⬒⬓⬖⬘⬙⬚⬠⬡⭓⭔⌀⌁⌃⌄⌅⌆⌌⌎⌐⌑⌙⌜⌝⌞⌟⌤⌥⌧⍳⍴⍵⍺⍽⎇⎔⎧⎨⎩⎫⎬⎭⏣⏨🁣🁨🁷🁺🂀🂏🂡🂱🂽🃂"
    "🃏🃓🃟←↑↓↔↕↘↚↛↜↝↞↟↡↢↤↥↦↧↨↩↫↭↮↯↰↲↴↵↶↸↹↺↼↽↾⇂⇄⇅⇇⇈⇊⇋⇍⇎⇏⇐⇑⇓⇕⇖⇗⇘⇙⇚⇜⇞⇟⇠⇡⇣⇤⇦⇧⇩⇪⇫⇬⇭⇮⇯⇰⇱⇲⇴⇶⇷⇹⇺⇽⇿⟰⟱⟲⟴"
    "⟵⟷⟸⤆⤊⤋⥀⥁∀∁∂∃∄∅∆∇∈∉∊∋∌∎∏∐∑∓∔∕∖∗√∛∜∝∟∠∡∢∤∦∧∨∩∪∫∬∭∮∯∰∴∵∷∸∹∺∻∾∿≀≁≂≃≄≅≆≇≈≉≋≍≎≏≐≑≒≔≖≗≘≙≚≛≜≝≞≟≠≡≢"
    "≣≤≦≨≩≪≬≭≮≯≰≱≲≳≶≷≸≹≺≻≼≽≾≿⊀⊁⊂⊄⊅⊆⊈⊉⊊⊋⊎⊏⊑⊓⊔⊕⊖⊗⊘⊙⊛⊜⊞⊢⊤⊥⊦⊧⊨⊩⊪⊫⊬⊭⊮⊯⊰⊱⊲⊴⊶⊸⊹⊺⊻⊼⊽⊾⊿⋀⋁⋂⋃⋄⋇⋈⋉⋋⋎⋏⋐⋒⋓⋔⋕⋖"
    "⋘⋚⋜⋞⋟⋠⋡⋢⋣⋤⋦⋧⋨⋩⋪⋫⋬⋭⋰⋲⋵⋶⋷⋸⋹⋽⋿⧎⧏⧑⧫⧺⧻⨌⨍⨎⨏⨒⨓⨔⨖⨗⨛⨜⨯⩪⩫⩽⩾⪁⪂⪃⪅⪆⪇⪈⪉⪊⪋⪌⪍⪎⪑⪒⪓⪔⪕⪖⪙⪛⪝⪟⪠⪮⪯⪰⪱⪲⪳⪵⪷⪸⪹⪺⫹℀℁℃℄℅"
    "℆℈℉℔№℗℘℞℟℠℡™℣℥℧℩℮Ⅎ℺℻⅀⅁⅂⅃⅄⅋ⅎ①②③⑤⑥⑦⑨⑩0123456789ABCDEFGHKLMNOPQRSWXYZabdefghkmnoqrstuvxyz©¬®±"
    "²³¼½¾ÆÐØÞßæð÷øþĦħĸŁłŊŋŒœŦŧƀƁƃƄƆƇƈƊƌƍƏƑƒƓƔƕƖƘƚƛƜƝƞƟƢƣƤƦƧƩƪƫƬƭƮƲƳƴƶƷƺƼƽƾƿǁǝǤǥǶǷȜȝȡȢȣȤȥȴȵȶȸȹȺ"
    "ȻȼȽȾȿɀɁɂɃɄɆɇɈɉɊɍɎɏͰͲͳͶͷͼͽΓΔΞΠΦΨΩβγδζθκμνξπςστυφχψϏϗϘϙϚϛϝϞϟϠϡϢϣϤϦϧϨϩϪϫϬϭ϶ϺϻЂЄЉЊЋЏДЖЗКЛУФЦЧШ"
    "ЩЪЫЬЮЯвджлмнпфцчшщъыьэяђљњћџѠѢѣѤѦѧѨѩѪѬѮѯѰѱѴѵѸѹѺѼѽѾҀҁ҂ҊҋҍҐґҒғҔҗҘҙҚҞҟҠҡҢңҤҦҨҩҪҫҬҭҰұҲҴҵҶҷҸҹҺҼ"
    "ҾӃӅӇӈӉӋӌӍӡӶӺӻӼӿԂԃԄԅԆԇԈԉԋԌԍԎԏԒԓԔԕԖԗԘԙԠԢԤԥԱԲԳԴԵԶԷԸԹԺԻԽԾԿՀՁՂՃՄՅՆՇՉՊՋՌՎՏՐՒՔՖաբդեէըթժիխծկձճմնչպ"
    "ջռվտփքֆႠႡႢႣႤႥႦႧႨႩႪႫႬႭႮႯႰႱႲႴႵႶႸႹႺႻႼႽႾႿჀჁჂჃჄჅაბგდევზთიკლმნოპჟრსტუფქღყშჩცძჭჯჰჱჲჳჴჵჶჷჸჹჺ\u05d0"
    "\u05d1\u05d2\u05d3\u05d4\u05d6\u05d8\u05da\u05db\u05dc\u05dd\u05de\u05e0\u05e2\u05e3\u05e4"
    "\u05e5\u05e6\u05e7\u05e8\u05e9\u05ea\u0621\u0628\u0629\u062a\u062b\u062c\u062e\u062f\u0630"
    "\u0631\u0632\u0633\u0634\u0635\u0637\u0639\u063a\u0641\u0642\u0643\u0644\u0645\u0646\u0647"
    "\u0648\u0649\u064a١٢٣٤٥٦٧٨٩\u066e\u066f\u0679\u067b\u067c\u067d\u0680\u0681\u0688\u0689"
    "\u068a\u068b\u068c\u068d\u068e\u068f\u0691\u0692\u0693\u0695\u0696\u0697\u0698\u069e\u06a0"
    "\u06a1\u06a2\u06a5\u06a8\u06a9\u06aa\u06ad\u06ae\u06af\u06b2\u06b3\u06b4\u06b5\u06b7\u06b8"
    "\u06b9\u06ba\u06bb\u06bc\u06bd\u06be\u06c6\u06c7\u06c8\u06cb\u06ce\u06d0۴۵۶\u07c2\u07c4"
    "\u07c5\u07c6\u07c7\u07c9\u07cc\u07cd\u07ce\u07cf\u07d0\u07d1\u07d2\u07d3\u07d4\u07d5\u07d6"
    "\u07d8\u07d9\u07da\u07db\u07dc\u07dd\u07de\u07df\u07e0\u07e1\u07e2\u07e3\u07e4\u07e5ກຂຄງຈຊ"
    "ຍດຕຖທນບປຜຝພມຢຣລວສຫອຮຯະາຽເແໂໃໄ໑໒໓໔໕໖໗໘໙ᐁᐂᐄᐅᐆᐋᐍᐏᐐᐒᐓᐔᐕᐗᐘᐙᐚᐞᐟᐥᐦᐫᐬᐭᐮᐰᐲᐳᐴᐵᐹᐺᐻᐼᐽᐾᑀᑁᑂᑃᑄᑅᑆᑇᑈᑉᑍᑏᑑᑔᑖᑗ"
    "ᑙᑛᑜᑝᑞᑟᑠᑢᑥᑦᑧᑨᑩᑪᑫᑬᑮᑯᑰᑱᑲᑳᑴᑵᑶᑷᑸᑹᑺᑻᑼᑽᑾᒂᒃᒅᒆᒇᒈᒉᒊᒋᒌᒎᒏᒐᒑᒒᒓᒔᒕᒖᒗᒘᒙᒚᒛᒜᒠᒡᒤᒦᒨᒩᒬᒭᒮᒰᒱᒲᒳᒴᒵᒶᒹᒺᒼᒽᓀᓁᓃᓄᓅᓆᓉᓊᓋᓍᓐᓑ"
    "ᓒᓓᓔᓖᓗᓘᓙᓜᓝᓠᓡᓢᓣᓤᓥᓨᓬᓭᓮᓯᓰᓱᓲᓳᓴᓵᓶᓷᓸᓺᓻᓼᓽᓾᓿᔀᔃᔄᔅᔆᔐᔒᔓᔔᔗᔘᔛᔜᔝᔞᔟᔠᔥᔦᔧᔨᔩᔪᔫᔬᔭᔮᔯᔰᔱᔲᔳᔴᔵᔶᔷᔸᔹᔺᔽᔾᕂᕄᕅᕇᕈᕉᕊᕋᕌᕍᕎᕏᕐᕓ"
    "ᕔᕕᕖᕗᕘᕛᕜᕝᕞᕠᕢᕤᕥᕦᕨᕩᕪᕴᕶᕷᕸᕺᕻᕾᕿᖀᖁᖂᖃᖄᖅᖊᖌᖎᖏᖐᖑᖒᖓᖔᖕᖖᖠᖢᖣᖦᖨᖫᖬᖮᙆᙇᙯᙰᙱᙲᙳᙴᙵᙶᚁᚂᚃᚄᚅᚆᚇᚈᚉᚊᚋᚌᚍᚎᚏᚐᚑᚒᚓᚔᚕᚖᚗᚘᚙᚚⴰⴳⴴⴵ"
    "ⴶⴻⴼⴽⴾⴿⵀⵁⵃⵄⵆⵇⵊⵋⵌⵐⵒⵓⵕⵖⵘⵚⵛⵜⵞⵟⵡⵢⵣⵤꓘꓙꓤꓩꓭ𐌀𐌁𐌂𐌃𐌄𐌅𐌆𐌇𐌊𐌋𐌌𐌍𐌐𐌑𐌒𐌓𐌔𐌕𐌖𐌘𐌙𐌚𐌛𐌜𐌝𐌞𐌣ɐɕɖɗɚɝɞɠɣɤɥɦɧɨɬɮɱɲɶɷɸɹɺɻɼɽɾʀ"
    "ʁʂʄʅʆʇʈʉʊʋʌʍʎʏʐʑʓʔʕʖʗʚʛʝʞʠʣʤʥʦʧʨʩʪʫʬʭʮʯꙌꙐꙑꙖꙗꙢꙣꙤꙥꙦꙧꙪꙫꙬꙮꚋꚌꚔꜢꜣꜤꜧꜨꜩꜫꜲꜳꜴꜵꜶꜷꜸꜹꜼꜽꝁꝆꝉꝊꝋꝐꝑꝒꝓꝖꝤꝥꝦꞀꞂꞃ"
    "ꞎꞐꞑꞠꞡꞢꞣꞤꞥꞦꞧꞨꞩꞪꟽꟿᴁᴂᴃᴆᴈᴌᴑᴒᴓᴖᴗᴘᴙᴚᴝᴞᴨᴪᵻᵽⱠⱡⱢⱣⱤⱥⱦⱨⱩⱪⱫⱬⱭⱮⱰⱱⱲⱳⱴⱷⱹⱺⱾⱿ"
)

GLYPH_SIZE = 96  # pixels; longest side of the stored symbols, which are then only scaled down
GLYPH_MARGIN = 5  # pixels at that size; width of the body's rim around the symbol


class Glyph(NamedTuple):
    """
    A drawn symbol, two "L" images of the same size.

    Attributes:
        ink: opacity of the symbol itself.
        body: opacity of what it is drawn on: the symbol with a rim, enclosed areas filled.
    """

    ink: Image.Image
    body: Image.Image


def symbol_names(num_classes: int) -> list[tuple[str, str]]:
    """
    The first ``num_classes`` symbols, as (character, name). Names are Unicode's, in lower case with
    underscores.

    Raises:
        ValueError: there are fewer symbols.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if num_classes > len(SYMBOLS):
        raise ValueError(
            f"num_classes is {num_classes}, but the font has only {len(SYMBOLS)} usable symbols"
        )
    return [(c, unicodedata.name(c).lower().replace(" ", "_")) for c in SYMBOLS[:num_classes]]


def render_glyph(char: str) -> Glyph:
    """Draw a symbol whose longest side, without its body's rim, has ``GLYPH_SIZE`` pixels."""
    box = _draw_char(char, _font(GLYPH_SIZE), 0, 0).getbbox()
    assert box is not None, f"{char!r} leaves no ink"
    left, top, right, bottom = box
    font = _font(round(GLYPH_SIZE**2 / max(right - left, bottom - top)))
    ink = _draw_char(char, font, GLYPH_MARGIN, stroke_fill=0)
    body = _draw_char(char, font, GLYPH_MARGIN, stroke_fill=255)
    outside = body.point(lambda alpha: 255 * (alpha >= 128))
    # The corner is outside: there is a margin around the body.
    ImageDraw.floodfill(outside, (0, 0), 1)
    body = Image.fromarray(np.where(np.asarray(outside) == 0, np.uint8(255), np.asarray(body)))
    box = body.getbbox()
    return Glyph(ink.crop(box), body.crop(box))


def _draw_char(
    char: str, font: ImageFont.FreeTypeFont, stroke_width: int, stroke_fill: int
) -> Image.Image:
    left, top, right, bottom = font.getbbox(char, stroke_width=stroke_width)
    size = right - left + 4, bottom - top + 4
    image = Image.new("L", size)  # type: ignore[arg-type]  # whole, as the stroke's width
    ImageDraw.Draw(image).text(
        (2 - left, 2 - top),
        char,
        font=font,
        fill=255,
        stroke_width=stroke_width,
        stroke_fill=stroke_fill,
    )
    return image


def _font(size: int) -> ImageFont.FreeTypeFont:
    # Basic layout: the same with and without Pillow's optional libraqm.
    return ImageFont.truetype(_font_file(), size, layout_engine=ImageFont.Layout.BASIC)


def _font_file() -> str:
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
