"""Drawing of the generated dataset: its symbols, and images of them with exact masks."""

import os
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

OBJECT_SIZES = (0.16, 0.55)  # longest side over the image size, log-uniform
MAX_ROTATION = 25.0  # degrees, either way
MIN_VISIBLE = 0.25  # share of an object that others must leave visible
NUM_POSITIONS = 3  # tried for each object
GLYPH_SIZE = 96  # pixels; longest side of the stored symbols, which are then only scaled down
GLYPH_MARGIN = 5  # pixels at that size; width of the body's rim around the symbol

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
    if not 1 <= num_classes <= len(SYMBOLS):
        raise ValueError(f"{num_classes} symbols asked for; there are {len(SYMBOLS)} of them")
    return [(c, unicodedata.name(c).lower().replace(" ", "_")) for c in SYMBOLS[:num_classes]]


def render_glyph(char: str) -> Glyph:
    """Draw a symbol whose longest side, without its body's rim, has ``GLYPH_SIZE`` pixels."""
    left, top, right, bottom = _draw_char(char, _font(GLYPH_SIZE), 0, 0).getbbox() or (0, 0, 1, 1)
    font = _font(round(GLYPH_SIZE**2 / max(right - left, bottom - top)))
    ink = _draw_char(char, font, GLYPH_MARGIN, stroke_fill=0)
    body = _draw_char(char, font, GLYPH_MARGIN, stroke_fill=255)
    outside = body.point(lambda alpha: 255 * (alpha >= 128))
    # The corner is outside: there is a margin around the body.
    ImageDraw.floodfill(outside, (0, 0), 1)
    body = Image.fromarray(np.where(np.asarray(outside) == 0, np.uint8(255), np.asarray(body)))
    box = body.getbbox()
    return Glyph(ink.crop(box), body.crop(box))


def draw_image(
    glyphs: Sequence[Glyph], image_size: int, rng: np.random.Generator, plain: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """
    Draw glyphs in turn, later ones over earlier ones, at random places on a random background.

    Args:
        glyphs: what to draw.
        image_size: height and width in pixels.
        rng: decides everything else.
        plain: dark symbols on light bodies, instead of any two colours.

    Returns:
        The image, uint8 RGB (H, W, 3), and the index of the glyph that each pixel shows, int
        (H, W), -1 for the background.

    Raises:
        ValueError: the glyphs do not fit into an image of this size.
    """
    canvas = _draw_background(image_size, rng)
    owner = np.full((image_size, image_size), -1)
    areas = np.zeros(len(glyphs), dtype=int)
    visible = np.zeros(len(glyphs), dtype=int)
    for index, glyph in enumerate(glyphs):
        ink, body, x, y = _place_glyph(glyph, owner, areas, visible, rng)
        height, width = body.shape
        region = np.s_[y : y + height, x : x + width]
        mask = body >= 128
        hidden = owner[region][mask]
        visible -= np.bincount(hidden[hidden >= 0], minlength=len(glyphs))
        areas[index] = visible[index] = mask.sum()
        owner[region][mask] = index

        if plain:
            body_color, ink_color = rng.uniform(205, 255, 3), rng.uniform(0, 50, 3)
        else:
            body_color = _contrasting_color(canvas[region].mean(axis=(0, 1)), rng)
            ink_color = _contrasting_color(body_color, rng)
        color = body_color + (ink_color - body_color) * (ink[:, :, None] / 255.0)
        canvas[region] += (color - canvas[region]) * (body[:, :, None] / 255.0)

    canvas += rng.normal(0.0, rng.uniform(0.0, 6.0), canvas.shape)
    picture = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.6)))
    return np.asarray(picture), owner


def _place_glyph(
    glyph: Glyph,
    owner: np.ndarray,
    areas: np.ndarray,
    visible: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """
    A random size, rotation and position that leaves enough of every earlier glyph visible.

    Returns:
        Ink and body, uint8 (h, w), and the x and y of their upper left corner.
    """
    image_size = len(owner)
    low, high = OBJECT_SIZES
    side = image_size * low * (high / low) ** rng.random()
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    for _ in range(50):
        ink, body = _transform_glyph(glyph, side, angle)
        height, width = body.shape
        mask = body >= 128
        positions = []
        # The position that hides least: objects overlap a bit, but do not pile up.
        for _ in range(NUM_POSITIONS):
            x = int(rng.integers(image_size - width + 1))
            y = int(rng.integers(image_size - height + 1))
            hidden = owner[y : y + height, x : x + width][mask]
            hidden = np.bincount(hidden[hidden >= 0], minlength=len(areas))
            if (visible - hidden >= MIN_VISIBLE * areas).all():
                positions.append((hidden.sum(), x, y))
        if positions:
            return ink, body, *min(positions)[1:]
        side = max(0.8 * side, low * image_size)
    raise ValueError(f"{len(areas)} objects do not fit into an image of {image_size} pixels")


def _transform_glyph(glyph: Glyph, side: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Ink and body scaled to a longest side in pixels, rotated by degrees, cropped to the body."""
    scale = side / max(glyph.ink.size)
    size = [max(1, round(scale * length)) for length in glyph.ink.size]
    ink, body = (
        layer.resize(size, Image.Resampling.BILINEAR).rotate(
            angle, Image.Resampling.BICUBIC, expand=True
        )
        for layer in glyph
    )
    box = body.getbbox()
    return np.asarray(ink.crop(box)), np.asarray(body.crop(box))


def _draw_background(image_size: int, rng: np.random.Generator) -> np.ndarray:
    """A texture of two colours (gradient, stripes or smooth noise), float (H, W, 3), 0 to 255."""
    kind = rng.integers(3)
    if kind == 2:
        cells = rng.integers(0, 256, (rng.integers(3, 12),) * 2, dtype=np.uint8)
        smooth = Image.fromarray(cells).resize((image_size,) * 2, Image.Resampling.BICUBIC)
        blend = np.asarray(smooth) / 255.0
    else:
        angle = rng.uniform(0, 2 * np.pi)
        line = np.linspace(-0.5, 0.5, image_size)
        blend = line * np.cos(angle) + line[:, None] * np.sin(angle) + 0.5
        if kind == 1:
            blend = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 10) * blend)
    colors = rng.uniform(0, 255, (2, 3))
    # Not too far apart, so that the objects stay easier to see than the texture.
    colors[1] = colors[0] + 0.5 * (colors[1] - colors[0])
    return colors[0] + (colors[1] - colors[0]) * blend[:, :, None]


def _contrasting_color(reference: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random RGB colour; of eight, the one farthest from the reference."""
    colors = rng.uniform(0, 255, (8, 3))
    return colors[np.linalg.norm(colors - reference, axis=1).argmax()]


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
    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
