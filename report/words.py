"""The words that belong to the report itself and to no notebook, in both languages, and its reading order."""

from dataclasses import dataclass

LANGUAGES = ("ja", "en")


@dataclass(frozen=True)
class Part:
    """A chapter: its anchor, its headings, and the notebooks that it is made of."""

    name: str
    ja: str
    en: str
    notebooks: tuple[str, ...]


PARTS = (
    Part("earlier", "これまでのフェーズ", "The earlier phases", ("phases",)),
    Part("validation", "第V部 検証", "Part V: Validation", ("V1", "V2", "V3", "V4", "V5")),
    Part("recovery", "第P部 生成による回収", "Part P: Recovery by generation", ("P1", "P2", "P3", "P4")),
    Part("questions", "第R部 残された問い", "Part R: The open questions", ("K", "R2", "R3", "R4")),
    Part("robustness", "第S部 答えの届く範囲", "Part S: How far the answers carry", ("S1", "S2")),
    Part("setup-part", "実験条件", "Experimental set-up", ("setup",)),
    Part("conclusions-part", "結論", "Conclusions", ("conclusions",)),
)
# Cells of this notebook with these tags open the report, in this order.
OPENING_NOTEBOOK, OPENING_TAGS = "conclusions", ("summary", "method")

TITLE = {
    "ja": "softmaxをReLUに替えたattentionヘッドは、何を失うか",
    "en": "What attention heads lose with ReLU in place of softmax",
}
SUBTITLE = {
    "ja": "実験10: 全トークンでの検証とフェーズ3の測り直し",
    "en": "Experiment 10, measured again: validation on all tokens, and Phase 3",
}
WORDS = {
    "summary": ("要約", "Summary"),
    "method": ("方法", "Method"),
    "contents": ("目次", "Contents"),
    "files": ("ファイル", "Files"),
    "references": ("参考文献", "References"),
    "appendix": ("付録: 表", "Appendix: tables"),
    "provenance": ("この報告の来歴", "How this report was made"),
    "figure": ("図", "Figure"),
    "table": ("表", "Table"),
    "code": ("コードと結果", "Code and results"),
    "output": ("出力", "output"),
    "results_of": ("結果データ", "Results"),
    "made_by": ("これを書いたセル", "written by cell"),
    "notebook": ("ノートブック", "notebook"),
    "all_code": ("コードをすべて開く", "Open all code"),
    "no_code": ("コードを閉じる", "Close all code"),
    "take_along": ("データと図を保存", "Save data and picture"),
    "search": ("本文を検索", "Search the text"),
    "nothing_found": ("見つからない", "Nothing found"),
    "theme": ("明暗を切り替える", "Switch light and dark"),
    "language": ("言語", "Language"),
    "skip": ("本文へ", "Skip to the text"),
    "top": ("先頭へ", "To the top"),
    "file": ("ファイル", "File"),
    "bytes": ("バイト数", "Bytes"),
    "digest": ("SHA-256（先頭）", "SHA-256 (beginning)"),
    "profile": ("プロファイル", "Profile"),
    "model": ("モデル", "Model"),
    "corpus": ("コーパス", "Corpus"),
    "commit": ("コミット", "Commit"),
    "dirty": ("未コミットの変更", "Uncommitted changes"),
    "machine": ("計算機", "Machine"),
    "device": ("デバイス", "Device"),
    "backend": ("実装", "Backend"),
    "seed": ("乱数の種", "Seed"),
    "versions": ("版", "Versions"),
    "started": ("開始", "Started"),
    "seconds": ("計算時間", "Computing time"),
    "reused": ("保存済みの計算を使って省いた時間", "Time saved by the store"),
    "ledger": ("節ごとの時間（計算 + 省いた時間）", "Time by section (computed + saved)"),
    "parameters": ("パラメータ", "Parameters"),
    "again": ("再実行", "To run it again"),
    "unmeasured": (
        "この節の結果は、欠けているか、この版の形式に合わない。測っていない節として扱う。`make report`が測り直す。",
        "The results of this section are missing, or in the form of another version, so it counts as not measured;"
        " `make report` measures it.",
    ),
    "value": ("値", "Value"),
    "item": ("項目", "Item"),
    "playground": ("モデルを手元で動かす", "Try the model yourself"),
    "files_note": (
        "この報告のもとになったデータと図。場所は出力フォルダーからの相対パス。",
        "The data and figures behind this report, by their path in the output folder.",
    ),
}

REPRODUCIBILITY_WORDS = {
    "title": ("再現性", "Reproducibility"),
    "intro": (
        "ACMのバッジとNeurIPSのチェックリストに、規則で答える。「はい」といえるのは、それを示すテストか結果があるときに限る。"
        "バッジは審査員が与えるもので、ここに記すのは基準を満たすかどうかである。",
        "ACM's badges and NeurIPS' checklist, answered by rule: yes only where a test or a result proves it. Badges are"
        " given by a committee; this says whether what they ask for is there.",
    ),
    "acm": ("ACMのバッジ（第1.1版）", "ACM's badges (version 1.1)"),
    "neurips": ("NeurIPSのチェックリスト", "NeurIPS' checklist"),
    "question": ("問い", "Question"),
    "answer": ("答え", "Answer"),
    "why": ("理由", "Why"),
    "proof": ("根拠", "Proof"),
    "yes": ("はい", "yes"),
    "no": ("いいえ", "no"),
    "n/a": ("該当しない", "n/a"),
    "by_run": ("実行による", "told by each run"),
}

# The explorer's own; {marks} are filled in the page.
EXPLORER_WORDS = {
    "title": ("ヘッド数と限度を動かす", "Explore the numbers"),
    "intro": (
        "方式とトークン、置き換えるヘッドの数、PPL比の限度を選ぶと、測定済みの段からPPLと節約できる計算量を示す。"
        "段の間は測っていない。選んだ状態はアドレスに残る。",
        "Choose a mode, the tokens, how many heads are changed and a limit of the PPL ratio: what was measured at that"
        " rung follows, with the computation that it saves. Nothing was measured between rungs. The choice stands in"
        " the address.",
    ),
    "mode": ("方式", "Mode"),
    "tokens": ("トークン", "Tokens"),
    "2k": ("2Kトークン", "2K tokens"),
    "2k_alone": (
        "2Kトークン（区間はこのチャンクの中だけの確かさ）",
        "2K tokens (intervals speak of those chunks alone)",
    ),
    "full": ("全トークン", "all tokens"),
    "spread": ("ReLUと同じ順序の対照", "controls in ReLU's order"),
    "heads": ("置き換えるヘッドの数", "Heads changed"),
    "limit": ("PPL比の限度", "Limit of the PPL ratio"),
    "ppl": ("PPL", "PPL"),
    "ratio": ("PPL比", "PPL ratio"),
    "rung": ("限度に収まる最大の段", "Last rung within the limit"),
    "crossing": ("限度を越える点（補間）", "Where it passes the limit (interpolated)"),
    "saved_attention": ("attentionだけのFLOPs削減率", "FLOPs saved, attention alone"),
    "saved_model": ("モデル全体のFLOPs削減率", "FLOPs saved, whole model"),
    "extra_attention": ("attentionだけで数えて増やせるトークン", "Tokens that buys, attention alone"),
    "extra_model": ("モデル全体で数えて増やせるトークン", "Tokens that buys, whole model"),
    "within": (
        "{mode}、{n}ヘッド、{tokens}: PPLはベースラインの{ratio}倍で、限度の{limit}倍に収まる。",
        "{mode}, {n} heads, {tokens}: PPL is {ratio} times the baseline's, within the limit of {limit}.",
    ),
    "beyond": (
        "{mode}、{n}ヘッド、{tokens}: PPLはベースラインの{ratio}倍で、限度の{limit}倍を超える。",
        "{mode}, {n} heads, {tokens}: PPL is {ratio} times the baseline's, beyond the limit of {limit}.",
    ),
    "some_heads": ("{n}ヘッド", "{n} heads"),
    "unlimited": ("限りなし", "no end"),
    "chart": (
        "置き換えたヘッドの数に対するPPL比の折れ線と95%信頼区間の帯。破線は限度、丸は選んだ段。",
        "A line of the PPL ratio over the number of heads changed, with a band of 95% intervals; dashed: the limit;"
        " the dot: the chosen rung.",
    ),
    "note": (
        "角括弧は95%信頼区間で、限度の二行では帯の端が限度を越える点である。補間はPPL比の対数を段の間で直線とみなす。"
        "attentionだけの数え方は公表された式により、値や重みを固定したヘッドの計算はすべて消えるとする。"
        "増やせるトークンはP3の条件で数えた。"
        "ヘッドの順序は方式ごとに劣化の小さい順で、対照だけはReLUの順序に従い、全体から間を空けて採ったチャンクで測った。",
        "Brackets are 95% intervals; for the limit, they are where the band's edges pass it. Interpolation takes the"
        " logarithm of the ratio as straight between rungs. Attention alone is counted by the published formula; a head"
        " whose value or weights are fixed costs it nothing. Tokens are counted under P3's conditions. Each mode takes"
        " its own least harmful heads first; the controls keep ReLU's order and were measured on chunks from all over"
        " the text.",
    ),
    "table": ("すべての段の表", "All rungs as a table"),
}

PLAYGROUND_WORDS = {
    "title": ("ヘッドを差し替えて試す", "Change the heads yourself"),
    "intro": (
        "報告で測った小さなGPT-2（{name}、{n_params}パラメータ）が、このページの中だけで動く。文章を打ち込み、盤上のヘッドを押すと、"
        "softmax、ReLU、ゼロ置換、平均置換の順に切り替わり、そのままのモデルとの違いが出る。"
        "Pythonのソースで訓練したので、Pythonらしい文章がよい。",
        "The small GPT-2 that the report measures ({name}, {n_params} parameters) runs here, in this page alone. Type a"
        " text and press a head on the board: it goes from softmax to ReLU, to zero, to its mean and back, and what"
        " changes against the untouched model is shown. The model was trained on Python sources and likes them best.",
    ),
    "loss": (
        "重みは行ごとに8ビットに丸めてある。保留テキスト（{corpus}、{n_tokens}トークン）でのPPLは{ppl}から{ppl_int8}に変わる"
        "（{change}、95%信頼区間 [{low}, {high}]）。平均置換の値は同じテキストでの平均である。",
        "The weights are rounded to eight bits, row by row. On held-out text ({corpus}, {n_tokens} tokens) that takes"
        " PPL from {ppl} to {ppl_int8} ({change}, 95% interval [{low}, {high}]). Heads fixed at their mean have"
        " their mean over the same text.",
    ),
    "language": ("言語", "Language"),
    "text": ("文章", "Text"),
    "board": ("ヘッドの盤（行は層、列はヘッド）", "The board of heads (rows are layers, columns heads)"),
    "board_help": (
        "矢印キーで動き、EnterかSpaceで切り替える。",
        "Arrow keys move, Enter or Space changes the head.",
    ),
    "all": ("すべてのヘッドを", "All heads"),
    "layer": ("この層", "layer"),
    "softmax": ("softmax", "softmax"),
    "relu": ("ReLU", "ReLU"),
    "zero": ("ゼロ置換", "zero"),
    "mean": ("平均置換", "mean"),
    "untouched": ("そのままのモデル", "Untouched model"),
    "changed": ("差し替えたモデル", "Changed model"),
    "ppl": ("この文章のPPL", "PPL of the text"),
    "next": ("次のトークンの確率", "Probability of the next token"),
    "go_on": ("続きを書かせる", "Continue the text"),
    "stop": ("止める", "Stop"),
    "continuation": ("続き（最も確率の高いトークンを順に）", "Continuation (the most probable token each time)"),
    "loading": ("重みを展開している…", "Unpacking the weights …"),
    "reading": ("読んでいる…", "Reading …"),
    "ready": (
        "{tokens}トークン、変えたヘッドは{n}個。PPLは{before}から{after}へ。",
        "{tokens} tokens, {n} heads changed. PPL goes from {before} to {after}.",
    ),
    "speed": ("{rate}トークン/秒（二つのモデルの合計）", "{rate} tokens/s (both models together)"),
    "too_long": ("先頭の{n}トークンだけを読む。", "Only the first {n} tokens are read."),
    "no_script": (
        "このページはモデルをJavaScriptで動かす。スクリプトを許すと使える。",
        "This page runs the model in JavaScript and needs scripts to be allowed.",
    ),
    "failed": ("動かせなかった: {why}", "It could not be run: {why}"),
    "report": ("報告へ", "To the report"),
}

DESCRIPTION = {
    "ja": "GPT-2型モデルのattentionヘッドのsoftmaxをReLUに替え、ゼロや平均に置き換えると、PPLと生成はどう変わるか。"
    "一つのコマンドで測り直せる報告で、どの数値にも区間があり、判定は規則による。",
    "en": "What happens to perplexity and to generation when the attention heads of a GPT-2 lose their softmax, are"
    " zeroed or fixed at their mean: a report that one command measures again, with an interval on every number and"
    " verdicts by rule.",
}


def word(key: str, lang: str) -> str:
    """The report's own word `key` in `lang`."""
    return WORDS[key][LANGUAGES.index(lang)]
