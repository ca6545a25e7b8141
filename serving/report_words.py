"""What a report of a forecast says, in the languages that it speaks; `{...}` is filled by `report.py`."""

from typing import Any

import pandas as pd

WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "lang": "en",
        "day": "%d %b",
        "month": "%b %Y",
        "forecast": "Forecast",
        "many": "{count} tickers",
        "ahead": "{bars} ahead, from the last bar, {origin}",
        "bars": ("1 bar", "{horizon} bars"),
        "ahead_each": "{bars} ahead, from the last bar of each, up to {origin}",
        "made": "Made {moment} UTC",
        "by": "By {day}, {ticker} is, with a probability of 80\u00a0%, between {low} and {high}.",
        "middle": "Half of the forecast lies above {median}{move}. The last known {what} is {last}.",
        "one_number": "By {day}, the model expects {ticker} at {mean}. It says nothing about how sure it is.",
        "classes": "By {day}, the model tells the direction of {ticker} alone, not how far it goes.",
        "up": "Chance to stand above the last {what}",
        "close": "close",
        "value": "value",
        "chart": "Last {shown} bars of {ticker}, then the forecast up to {day}.",
        "legend": {
            "history": "known",
            "median": "median",
            "50": "50 %",
            "80": "80 %",
            "90": "90 %",
            "walk": "no change",
            "realised": "what happened",
        },
        "steps": "Step by step",
        "columns": {
            "step": "step",
            "day": "by",
            "mean": "mean",
            "median": "median",
            "50": "50\u00a0% between",
            "80": "80\u00a0% between",
            "90": "90\u00a0% between",
            "up": "P(up)",
            "zero": "P(0)",
            "ticker": "ticker",
            "origin": "last bar",
            "last": "last",
            "move": "median, % from last",
            "range": "80 % band, % from last",
        },
        "overview": "All tickers at the last step",
        "sort": "Click a heading to sort.",
        "first": "Charts and steps of the first {shown} of {count} tickers follow.",
        "verdict": "Is it worth anything?",
        "verdict_of": "Judged on the tickers that are drawn below, together.",
        "findings": {
            "better": "An edge on these dates",
            "no edge": "No edge found",
            "worse": "Worse than the strongest simple forecast",
            "too few dates": "Too few dates to tell",
        },
        "judged": {},  # a verdict has its sentences in this language
        "no_verdict": "This report does not say how good earlier forecasts of this series were. "
        "`tsf-llm evaluate` does.",
        "joint": "Together",
        "joint_about": "Return of the portfolio since the last bar, %. VaR 95: the loss that one path in twenty "
        "exceeds; ES 95: their mean loss.",
        "joint_columns": {"loss": "P(loss)", "best": "P(best)", "weight": "weight, %"},
        "risk": "Price levels and drawdown",
        "risk_columns": {
            "touch": "P(touches {level})",
            "stop": "P(stop {stop} first)",
            "target": "P(target {target} first)",
            "drawdown": "expected maximum drawdown",
        },
        "reading": "How to read it",
        "readings": [
            "A forecast is a range with odds, not a price. An 80 % band that is honest misses one time in five.",
            "P(up) near 50 % means that the direction is open. For daily prices this is the usual answer.",
            "Bands widen with time, and after turbulent days. They know nothing of news that is still to come.",
        ],
        "about": "What made it",
        "facts": {
            "model": "model",
            "digest": "digest of the weights",
            "trained": "trained through",
            "sample": "these dates",
            "used": "inputs used",
            "masked": "inputs that were missing, hence masked",
            "ignored": "columns ignored",
            "version": "version of tsf-llm",
        },
        "unknown": "unknown",
        "none": "none",
        "out": "out of sample: the model has not seen them",
        "in": "not out of sample: the model has seen prices of these dates",
        "mixed": "{count} of {total} tickers are not out of sample: the model has seen prices of their dates",
        "untold": "unknown, since the model does not say what it has seen",
        "skipped": "Skipped",
        "again": "Make it again",
        "advice": "This is a statistical forecast, not advice to buy or sell anything. "
        "It can be wrong, and will be at times. You alone answer for what you do with it.",
    },
    "zh": {
        "lang": "zh-CN",
        "day": "%m-%d",
        "month": "%Y-%m",
        "forecast": "预测",
        "many": "{count} 个代码",
        "ahead": "向前 {bars}，自最后一根K线 {origin} 起",
        "bars": ("1 根K线", "{horizon} 根K线"),
        "ahead_each": "向前 {bars}，自各自的最后一根K线起，最晚为 {origin}",
        "made": "生成于 {moment} UTC",
        "by": "到 {day}，{ticker} 有 80% 的概率位于 {low} 与 {high} 之间。",
        "middle": "预测的一半高于 {median}{move}。最近已知{what}为 {last}。",
        "one_number": "到 {day}，模型预期 {ticker} 为 {mean}，但没有说明有多大把握。",
        "classes": "到 {day}，模型只判断 {ticker} 的方向，不判断幅度。",
        "up": "高于最近{what}的概率",
        "close": "收盘价",
        "value": "数值",
        "chart": "{ticker} 最近 {shown} 根K线，以及到 {day} 的预测。",
        "legend": {
            "history": "已知",
            "median": "中位数",
            "50": "50%",
            "80": "80%",
            "90": "90%",
            "walk": "不变",
            "realised": "实际走势",
        },
        "steps": "逐步预测",
        "columns": {
            "step": "步",
            "day": "到",
            "mean": "均值",
            "median": "中位数",
            "50": "50% 区间",
            "80": "80% 区间",
            "90": "90% 区间",
            "up": "上涨概率",
            "zero": "为零的概率",
            "ticker": "代码",
            "origin": "最后K线",
            "last": "最近值",
            "move": "中位数，较最近 %",
            "range": "80% 区间，较最近 %",
        },
        "overview": "所有代码的最后一步",
        "sort": "点击表头排序。",
        "first": "以下是 {count} 个代码中前 {shown} 个的图和逐步预测。",
        "verdict": "它有价值吗？",
        "verdict_of": "以下各图所示的代码一并评判。",
        "findings": {
            "better": "在这些日期上有优势",
            "no edge": "没有发现优势",
            "worse": "不如最强的简单预测",
            "too few dates": "日期太少，无法判断",
        },
        "judged": {
            "again": "对 {start} 至 {end} 的 {dates} 个较早日期重新预测，向前 {horizon} 根K线。",
            "beside": "与最强的简单预测 {strongest} 相比，CRPS 节省 {skill:+.1f}%。",
            "coverage": "80% 区间包含了 {coverage:.0f}% 的实际结果。",
            "seen": {
                None: "模型没有说明见过哪些日期。",
                True: "模型没有见过这些日期：训练截至 {through}。",
                False: "模型见过全部或部分这些日期（训练截至 {through}），因此这不是对它的检验。",
            },
        },
        "no_verdict": "本报告没有说明此前对该序列的预测有多好，请用 `tsf-llm evaluate`。",
        "joint": "组合",
        "joint_about": "自最后一根K线起的组合收益，%。VaR 95：二十条路径中有一条超过的损失；ES 95：其平均损失。",
        "joint_columns": {"loss": "亏损概率", "best": "最佳概率", "weight": "权重，%"},
        "risk": "价位与回撤",
        "risk_columns": {
            "touch": "触及 {level} 的概率",
            "stop": "先到止损 {stop} 的概率",
            "target": "先到目标 {target} 的概率",
            "drawdown": "预期最大回撤",
        },
        "reading": "怎样阅读",
        "readings": [
            "预测是带概率的区间，不是一个价格。诚实的 80% 区间每五次会落空一次。",
            "上涨概率接近 50% 表示方向不明。对日线价格来说，这是通常的答案。",
            "区间随时间变宽，在动荡之后也更宽。它不知道尚未发生的消息。",
        ],
        "about": "它是怎样得出的",
        "facts": {
            "model": "模型",
            "digest": "权重摘要",
            "trained": "训练截至",
            "sample": "这些日期",
            "used": "使用的输入",
            "masked": "缺失而被屏蔽的输入",
            "ignored": "忽略的列",
            "version": "tsf-llm 版本",
        },
        "unknown": "未知",
        "none": "无",
        "out": "样本外：模型没有见过",
        "in": "非样本外：模型见过这些日期的价格",
        "mixed": "{total} 个代码中有 {count} 个非样本外：模型见过其日期的价格",
        "untold": "未知：模型没有说明见过什么",
        "skipped": "跳过",
        "again": "重新生成",
        "advice": "这是统计预测，不构成买卖建议。它可能出错，有时也必然出错。如何使用由您自行负责。",
    },
}

SERIES: dict[str, dict[str, Any]] = {  # what is said of plain series in place of the same of prices
    "en": {
        "many": "{count} series",
        "ahead": "{bars} ahead, from the last value, {origin}",
        "bars": ("1 step", "{horizon} steps"),
        "ahead_each": "{bars} ahead, from the last value of each, up to {origin}",
        "chart": "Last {shown} values of {ticker}, then the forecast up to {day}.",
        "legend": {"walk": "last value"},
        "columns": {
            "up": "P(above last)",
            "ticker": "series",
            "origin": "last value of",
            "range": "80\u00a0% between",
        },
        "overview": "All series at the last step",
        "first": "Charts and steps of the first {shown} of {count} series follow.",
        "verdict_of": "Judged on the series that are drawn below, together.",
        "readings": [
            "A forecast is a range with odds, not a number. An 80 % band that is honest misses one time in five.",
            "The mean is what to expect on average, and adds up over steps and series; quantiles do not add up.",
            "A forecast knows the past of the series and what was given ahead of time, and nothing else.",
        ],
        "in": "not out of sample: the model has seen values of these dates",
        "mixed": "{count} of {total} series are not out of sample: the model has seen values of their dates",
        "advice": "This is a statistical forecast. It can be wrong, and will be at times. "
        "You alone answer for what you do with it.",
    },
    "zh": {
        "many": "{count} 条序列",
        "ahead": "向前 {bars}，自最后一个值 {origin} 起",
        "bars": ("1 步", "{horizon} 步"),
        "ahead_each": "向前 {bars}，自各自的最后一个值起，最晚为 {origin}",
        "chart": "{ticker} 最近 {shown} 个值，以及到 {day} 的预测。",
        "legend": {"walk": "最近值"},
        "columns": {"up": "高于最近值的概率", "ticker": "序列", "origin": "最近值时间", "range": "80% 区间"},
        "overview": "所有序列的最后一步",
        "first": "以下是 {count} 条序列中前 {shown} 条的图和逐步预测。",
        "verdict_of": "以下各图所示的序列一并评判。",
        "readings": [
            "预测是带概率的区间，不是一个数。诚实的 80% 区间每五次会落空一次。",
            "均值是平均预期，可以按步、按序列相加；分位数不能相加。",
            "预测只知道序列的过去和提前给出的信息，别无其他。",
        ],
        "in": "非样本外：模型见过这些日期的数值",
        "mixed": "{total} 条序列中有 {count} 条非样本外：模型见过其日期的数值",
        "advice": "这是统计预测。它可能出错，有时也必然出错。如何使用由您自行负责。",
    },
}


def words_of(language: str, *, plain: bool) -> dict[str, Any]:
    """The words of that language, of `plain` series with their own."""
    words = WORDS[language]
    if not plain:
        return words
    return words | {k: words[k] | one if isinstance(one, dict) else one for k, one in SERIES[language].items()}


def day_in_words(moment: pd.Timestamp, language: str) -> str:
    """A day with its weekday, and the time of day where there is one.

    >>> day_in_words(pd.Timestamp("2024-03-08"), "en"), day_in_words(pd.Timestamp("2024-03-08 16:30"), "zh")
    ('Friday 8 March 2024', '2024年3月8日（星期五）16:30')
    """
    is_day = moment == moment.normalize()
    if language == "zh":
        weekday = "一二三四五六日"[moment.weekday()]
        return f"{moment.year}年{moment.month}月{moment.day}日（星期{weekday}）{'' if is_day else f'{moment:%H:%M}'}"
    time = "" if is_day else f", {moment:%H:%M}"
    return f"{moment.day_name()} {moment.day} {moment.month_name()} {moment.year}{time}"
