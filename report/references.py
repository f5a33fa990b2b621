"""What the report refers to: one line for each work, in the order in which the list shows them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """`short` stands in the text, `entry` in the list; `address` is empty where none is public."""

    key: str
    short: str
    entry: str
    address: str = ""


WORKS = (
    Work(
        "study",
        "the published study",
        "Experiment 10: Validation + Phase 3 Results. The write-up that this report measures again; its figures are"
        " quoted as published.",
    ),
    Work(
        "gpt2",
        "Radford et al. 2019",
        "Radford, Wu, Child, Luan, Amodei & Sutskever (2019). Language Models are Unsupervised Multitask Learners."
        " OpenAI.",
    ),
    Work(
        "wikitext",
        "Merity et al. 2016",
        "Merity, Xiong, Bradbury & Socher (2016). Pointer Sentinel Mixture Models. arXiv:1609.07843.",
        "https://arxiv.org/abs/1609.07843",
    ),
    Work(
        "michel",
        "Michel et al. 2019",
        "Michel, Levy & Neubig (2019). Are Sixteen Heads Really Better than One? NeurIPS. arXiv:1905.10650.",
        "https://arxiv.org/abs/1905.10650",
    ),
    Work(
        "voita",
        "Voita et al. 2019",
        "Voita, Talbot, Moiseev, Sennrich & Titov (2019). Analyzing Multi-Head Self-Attention: Specialized Heads Do the"
        " Heavy Lifting, the Rest Can Be Pruned. ACL. arXiv:1905.09418.",
        "https://arxiv.org/abs/1905.09418",
    ),
    Work(
        "wortsman",
        "Wortsman et al. 2023",
        "Wortsman, Lee, Gilmer & Kornblith (2023). Replacing softmax with ReLU in Vision Transformers."
        " arXiv:2309.08586.",
        "https://arxiv.org/abs/2309.08586",
    ),
    Work(
        "kasai",
        "Kasai et al. 2021",
        "Kasai, Peng, Zhang, Yogatama, Ilharco, Pappas, Mao, Chen & Smith (2021). Finetuning Pretrained Transformers"
        " into RNNs. EMNLP. arXiv:2103.13076.",
        "https://arxiv.org/abs/2103.13076",
    ),
    Work(
        "hedgehog",
        "Zhang et al. 2024",
        "Zhang, Bhatia, Kumbong & Ré (2024). The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax"
        " Mimicry. ICLR. arXiv:2402.04347.",
        "https://arxiv.org/abs/2402.04347",
    ),
    Work(
        "lolcats",
        "Zhang et al. 2024 (LoLCATs)",
        "Zhang, Arora, Chalamala, Wu, Spector, Singhal, Ramesh & Ré (2024). LoLCATs: On Low-Rank Linearizing of Large"
        " Language Models. arXiv:2410.10254.",
        "https://arxiv.org/abs/2410.10254",
    ),
    Work(
        "flash3",
        "Shah et al. 2024",
        "Shah, Bikshandi, Zhang, Thakkar, Ramani & Dao (2024). FlashAttention-3: Fast and Accurate Attention with"
        " Asynchrony and Low-precision. arXiv:2407.08608.",
        "https://arxiv.org/abs/2407.08608",
    ),
)
BY_KEY = {work.key: work for work in WORKS}
SHORT_JA = {"study": "公表された研究"}


def short(key: str, lang: str) -> str:
    """How the text calls a work; raises KeyError for one that is not in the list."""
    return SHORT_JA.get(key, BY_KEY[key].short) if lang == "ja" else BY_KEY[key].short
