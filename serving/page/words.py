"""Every text of the page, in English and Chinese.

A key has both languages side by side, so that none is forgotten; `{name}` is filled in. Nothing here is markup. Where
a model reads plain series, the text of `series_` and the key is said in place of one that speaks of prices.
"""

from typing import Any

LANGUAGES = {"en": "English", "zh": "中文"}
PLACES = {"en": 0, "zh": 1}

WORDS: dict[str, tuple[str, str]] = {
    # the frame
    "title": ("What may a price do next?", "价格接下来可能怎么走？"),
    "subtitle": (
        "A language model of market bars answers with a whole distribution, and says how sure it is.",
        "一个读懂行情 K 线的语言模型：给出完整的概率分布，并说明有多大把握。",
    ),
    "language": ("Language", "语言"),
    "no_advice": (
        "No advice. Nobody forecasts the direction of a price much better than a coin; what can be forecast is how "
        "far it may move. Read the width of the fan first.",
        "不构成投资建议。没有人能比抛硬币更准多少地预测涨跌方向；能够预测的是波动幅度。请先看扇形有多宽。",
    ),
    "footer": (
        "Your file is read in memory and forgotten with the visit. Nothing is stored, nothing is sent elsewhere.",
        "文件只在内存中读取，离开页面后即被清除。不保存，也不外传。",
    ),
    # what to forecast
    "source": ("Prices", "行情"),
    "source_sample": ("Sample", "示例"),
    "source_file": ("My file", "我的文件"),
    "source_symbol": ("Symbol", "代码"),
    "ticker": ("Ticker", "标的"),
    "upload": ("Choose a file: CSV or Parquet, up to {limit} MB", "选择文件：CSV 或 Parquet，最大 {limit} MB"),
    "upload_hint": (
        "One row per day: date, open, high, low, close, volume; a column of tickers if there are several.",
        "每天一行：日期、开盘、最高、最低、收盘、成交量；若有多只标的，再加一列代码。",
    ),
    "symbol": ("Symbol, as AAPL", "代码，例如 AAPL"),
    "symbol_go": ("Fetch", "获取"),
    "horizon": ("Bars ahead", "向前预测的 K 线数"),
    "as_of": ("Forecast from (empty: the last bar)", "预测起点（留空：最后一根 K 线）"),
    "levels": ("Price levels, as 55, 60", "价位，例如 55, 60"),
    "go": ("Forecast", "预测"),
    "dates": ("How are the dates written?", "日期是怎么写的？"),
    "dates_dmy": ("day / month / year", "日 / 月 / 年"),
    "dates_mdy": ("month / day / year", "月 / 日 / 年"),
    "column": ("Column to forecast (empty: the only one)", "要预测的列（留空：唯一的数字列）"),
    "rule": ("Rule for uneven rows, as 1d:sum (empty: none)", "不均匀行的规则，如 1d:sum（留空：无）"),
    "table": ("Table of each series", "每条序列的属性表"),
    "table_taken": ("{name} goes with the next file.", "{name} 将与下一个文件合并。"),
    # plain series, in place of prices
    "series_title": ("What comes next in a series?", "序列接下来会怎样？"),
    "series_subtitle": (
        "Sales, load, temperature: a model of series answers every step ahead with a distribution.",
        "销量、负荷、温度：序列模型对未来每一步给出完整的概率分布。",
    ),
    "series_no_advice": (
        "A distribution of what may come, from the past of the series. Below stands what such forecasts were worth.",
        "根据序列的过去给出的概率分布。下方说明这类预测以往的表现。",
    ),
    "series_source": ("Series", "序列"),
    "series_ticker": ("Series", "序列"),
    "series_horizon": ("Steps ahead", "向前预测的步数"),
    "series_as_of": ("Forecast from (empty: the last value)", "预测起点（留空：最后一个值）"),
    "series_upload_hint": (
        "One row per time: date, value; a column of names if there are several series.{wanted}",
        "每个时间一行：日期、数值；若有多条序列，再加一列名称。{wanted}",
    ),
    "wanted_known": (
        " Known ahead, so with rows for the steps to come: {names}.",
        " 提前已知、须含未来各步的列：{names}。",
    ),
    "wanted_past": (" Also: {names}.", " 另需：{names}。"),
    "wanted_static": (
        " Of each series, in its rows or in a table beside: {names}.",
        " 每条序列一个值（在各行中，或另附一张表）：{names}。",
    ),
    "total": ("Expected in all, over {bars}", "{bars}合计预期"),
    "total_before": ("as many steps before: {value}", "此前同样步数：{value}"),
    "band_day": ("on {day}", "{day} 当日"),
    "series_p_up": ("Chance to lie above the last value", "高于最近值的概率"),
    "p_zero": ("Chance of zero", "为零的概率"),
    "series_close": ("Last value", "最近值"),
    "held_of": ("{inside} of {count} inside their 80 % band", "{count} 个中有 {inside} 个在 80% 区间内"),
    "series_in_sample": (
        "The model has seen values through {cutoff}: on these dates it looks better than it is.",
        "模型见过截至 {cutoff} 的数值：在这些日期上，它看起来比实际更好。",
    ),
    "series_loaded": ("{name}: {bars} rows, series: {tickers}.", "{name}：{tickers} 条序列，共 {bars} 行。"),
    "series_one_bar": ("1 step", "1 步"),
    "series_many_bars": ("{count} steps", "{count} 步"),
    "series_bars": ("Known", "已知"),
    "series_error": ("Error (CRPS), in usual changes", "误差（CRPS，以通常变化为单位）"),
    "series_why_intro": (
        "What the forecast of the next step reads, and what is lost without it.",
        "下一步的预测读取了什么，去掉它会损失多少。",
    ),
    "series_why_note": (
        "From {windows} earlier rows of this series: each kind of input in turn is swapped between dates. In brackets "
        "the 95 % interval: where it includes 0, the difference is noise. Bands in usual changes from the last value.",
        "取自该序列 {windows} 个历史时点：逐类把输入与其他日期互换。括号内为 95% 区间，包含 0 即为噪声。"
        "区间以通常变化为单位，自最近值算起。",
    ),
    "series_bad_columns": (
        "{name} has no column {missing}. Call its columns date, value, and series_id if there are several series.",
        "{name} 缺少列 {missing}。请将列命名为 date, value，多条序列再加 series_id。",
    ),
    "series_bad_header": (
        "{name} has no names of columns in its first line. Add the line: date,value.",
        "{name} 的第一行没有列名。请加上这一行：date,value。",
    ),
    "series_bad_order": (
        "{name} has a date twice, or dates out of order. Sort the rows by date, and name the series of each row in a "
        "column series_id if there are several.",
        "{name} 中有重复或乱序的日期。请按日期排序；若有多条序列，请用 series_id 列标明每行所属的序列。",
    ),
    "series_bad_short": (
        "{name} is too short: at least {least} values are needed before the forecast, and some 150 are better.",
        "{name} 太短：预测起点之前至少需要 {least} 个值，最好有 150 个左右。",
    ),
    "series_bad_flat": (
        "{name} never changes, so there is nothing to forecast. Choose another series.",
        "{name} 从不变化，无可预测。请换一条序列。",
    ),
    "series_bad_frequency": (
        "{name} has another time between its rows than the series this model knows. Give rows as far apart as those.",
        "{name} 的行间隔与模型所知的序列不同。请提供相同间隔的数据。",
    ),
    "series_bad_before": (
        "{name} has too few values up to {given}. Choose a later date, or leave it empty.",
        "{name} 在 {given} 之前的数值太少。请选择更晚的日期，或留空。",
    ),
    # the answer
    "about": ("{ticker}: {bars} ahead, {origin} to {target}", "{ticker}：向前 {bars}，{origin} 至 {target}"),
    "p_up": ("Chance to close higher", "收高的概率"),
    "move": ("Expected move", "预期涨跌"),
    "band": ("8 of 10 outcomes lie between", "十次有八次落在"),
    "close": ("Last close", "最新收盘价"),
    "drawdown": ("Deepest fall on the way, on average", "途中平均最大回撤"),
    "happened_tile": ("What happened", "实际结果"),
    "inside": ("inside the 80 % band", "在 80% 区间内"),
    "outside": ("outside the 80 % band", "在 80% 区间外"),
    "touch": ("Chance that a price is touched on the way", "途中触及某价位的概率"),
    "touch_note": (
        "By the highs and lows of {samples} simulated paths. Prices are adjusted for splits and dividends.",
        "依据 {samples} 条模拟路径的最高价与最低价。价格已按拆股与分红复权。",
    ),
    "in_sample": (
        "The model has seen prices through {cutoff}: on these dates it looks better than it is.",
        "模型见过截至 {cutoff} 的行情：在这些日期上，它看起来比实际更好。",
    ),
    "left_out": ("Left out, as unreadable: {names}.", "已略过无法读取的标的：{names}。"),
    "loaded": ("{name}: {bars} bars, tickers: {tickers}.", "{name}：{tickers} 只标的，共 {bars} 根 K 线。"),
    "symbol_as_of": ("{names}: adjusted daily bars from Yahoo Finance.", "{names}：来自 Yahoo Finance 的复权日线。"),
    "stale": ("These bars could not be renewed and may be old.", "行情未能更新，可能不是最新。"),
    "csv": ("Forecast as CSV", "下载预测 CSV"),
    "report": ("Report as HTML", "下载 HTML 报告"),
    "one_bar": ("1 bar", "1 根 K 线"),
    "many_bars": ("{count} bars", "{count} 根 K 线"),
    # the chart
    "bars": ("Bars", "K 线"),
    "median": ("Median", "中位数"),
    "band_90": ("90 % band", "90% 区间"),
    "band_80": ("80 % band", "80% 区间"),
    "band_50": ("50 % band", "50% 区间"),
    "happened": ("What happened", "实际走势"),
    "bar_hover": ("open {o}, high {h}, low {l}, close {c}", "开 {o}，高 {h}，低 {l}，收 {c}"),
    # the verdict
    "tab_verdict": ("How good?", "靠谱吗？"),
    "verdict_better": (
        "On this series the model forecast better than the best simple rule ({name}).",
        "在这条序列上，模型的预测优于最好的简单方法（{name}）。",
    ),
    "verdict_no_edge": (
        "No edge: on this series the model forecast no better than the best simple rule ({name}).",
        "没有优势：在这条序列上，模型并不比最好的简单方法（{name}）更准。",
    ),
    "verdict_worse": (
        "On this series the best simple rule ({name}) forecast better than the model. Trust it instead.",
        "在这条序列上，最好的简单方法（{name}）比模型更准。请改信它。",
    ),
    "verdict_too_few": (
        "Too few dates to say what this is worth: give more history.",
        "日期太少，无法判断预测的价值：请提供更长的历史。",
    ),
    "verdict_dates": (
        "{dates} earlier forecasts, {bars} ahead, {start} to {end}, compared with what happened.",
        "用 {start} 至 {end} 的 {dates} 次向前 {bars}的历史预测与实际结果比较。",
    ),
    "unseen": (
        "The model was trained through {cutoff} and has not seen these dates.",
        "模型训练截至 {cutoff}，没有见过这些日期。",
    ),
    "seen": (
        "The model was trained through {cutoff} and has seen these dates, or some of them: this is no test of it.",
        "模型训练截至 {cutoff}，见过其中全部或部分日期：这不算真正的检验。",
    ),
    "unknown_seen": ("The model does not say which dates it has seen.", "模型未说明它见过哪些日期。"),
    "forecaster": ("Forecast", "预测方法"),
    "error": ("Error (CRPS), % of price", "误差（CRPS，占价格 %）"),
    "beside": ("Model's error beside it", "模型误差与之相比"),
    "held": ("80 % band held", "80% 区间命中率"),
    "model": ("This model", "本模型"),
    "random_walk": ("Random walk", "随机游走"),
    "garch_t": ("GARCH(1,1)-t", "GARCH(1,1)-t"),
    "har_range": ("HAR on ranges", "极差 HAR"),
    "seasonal_naive": ("Same as last season", "沿用上一周期"),
    "lower_better": (
        "Lower is better. In brackets the 95 % interval of the difference: where it includes 0, nothing is proven.",
        "越低越好。括号内为差异的 95% 区间：若包含 0，则说明不了什么。",
    ),
    # why
    "tab_why": ("Why?", "依据"),
    "why_go": ("Explain", "解释"),
    "why_intro": (
        "What the forecast of the next bar reads, and what is lost without it.",
        "下一根 K 线的预测读取了什么，去掉它会损失多少。",
    ),
    "group": ("What is read", "读取的内容"),
    "worse_by": ("Error grows without it", "去掉后误差增加"),
    "band_without": ("80 % band of this forecast without it", "去掉后本次预测的 80% 区间"),
    "as_it_is": ("As it is", "完整输入"),
    "why_note": (
        "From {windows} earlier bars of this series: each kind of input in turn is swapped between dates. In "
        "brackets the 95 % interval: where it includes 0, the difference is noise.",
        "取自该序列 {windows} 个历史时点：逐类把输入与其他日期互换。括号内为 95% 区间，包含 0 即为噪声。",
    ),
    "group_bar": ("Shape of the bars", "K 线形态"),
    "group_volatility": ("Volatility", "波动率"),
    "group_volume": ("Volume", "成交量"),
    "group_calendar": ("Calendar", "日历"),
    "group_market": ("The market beside it", "大盘"),
    "group_range": ("Ranges of the bars", "K 线振幅"),
    "group_leverage": ("Falls and their aftermath", "下跌及其余波"),
    "group_events": ("Shocks and gaps", "冲击与缺口"),
    "group_implied": ("Implied volatility (VIX)", "隐含波动率（VIX）"),
    "group_moves": ("Recent moves", "近期涨跌"),
    # several
    "tab_joint": ("Together", "组合"),
    "joint_tickers": ("Tickers, 2 to {most}", "标的，2 至 {most} 只"),
    "joint_go": ("Look at them together", "一起预测"),
    "portfolio": ("All of them, equal weights", "等权组合"),
    "joint_about": (
        "{count} tickers bought in equal parts on {origin} and held for {bars}.",
        "{origin} 等权买入 {count} 只，持有 {bars}。",
    ),
    "mean": ("Mean", "均值"),
    "p_loss": ("Chance of a loss", "亏损概率"),
    "var": ("VaR 95 %", "VaR 95%"),
    "es": ("ES 95 %", "ES 95%"),
    "p_best": ("Chance to be the best", "表现最好的概率"),
    "joint_note": (
        "VaR: the loss that 1 path in 20 exceeds. ES: the mean loss of these paths. Paths of the tickers move "
        "together as they did before.",
        "VaR：二十条路径中有一条超过的损失。ES：这些路径的平均损失。各标的的路径按历史相关性共同变动。",
    ),
    "joint_few": ("Choose two tickers or more.", "请至少选择两只标的。"),
    "joint_one": (
        "These prices are of one ticker alone: give a file with several, in a column of tickers.",
        "行情只有一只标的：请提供含多只标的（带代码列）的文件。",
    ),
    # refusals: what is wrong, and the remedy
    "bad_empty": ("{name} has no rows. Export or download it again.", "{name} 没有数据行。请重新导出或下载。"),
    "bad_large": (
        "{name} is too large for this page (limit: {limit} MB, and {rows} rows). Leave out tickers or early years.",
        "{name} 太大（上限 {limit} MB、{rows} 行）。请去掉一些标的或较早的年份。",
    ),
    "bad_type": (
        "{name} is a kind of file that is not read here. Save the table as CSV (UTF-8) or Parquet.",
        "此处不读取 {name} 这种文件。请将表格另存为 CSV（UTF-8）或 Parquet。",
    ),
    "bad_binary": (
        "{name} is not the table that its name promises. Export it again as CSV (UTF-8) or Parquet.",
        "{name} 的内容与文件名不符，不是表格。请重新导出为 CSV（UTF-8）或 Parquet。",
    ),
    "bad_columns": (
        "{name} has no column for {missing}. Call its columns date, open, high, low, close, and volume if known.",
        "{name} 缺少这些列：{missing}。请将列命名为 date, open, high, low, close，有成交量则加 volume。",
    ),
    "bad_header": (
        "{name} has no names of columns in its first line. Add the line: date,open,high,low,close,volume.",
        "{name} 的第一行没有列名。请加上这一行：date,open,high,low,close,volume。",
    ),
    "bad_dates": (
        "The dates in {name} can be read in two ways. Say below which is right.",
        "{name} 中的日期有两种读法。请在下面选择正确的一种。",
    ),
    "bad_decimal": (
        "The numbers in {name} can be read in two ways. Write decimals with a point, without marks for thousands.",
        "{name} 中的数字有两种读法。请用点作小数点，不要千位分隔符。",
    ),
    "bad_cell": (
        "{name}, row {row}: {cell} is not a number. Correct it, or leave the cell empty.",
        "{name} 第 {row} 行：{cell} 不是数字。请更正或留空。",
    ),
    "bad_time": (
        "{name} has a date that cannot be read. Write dates as 2024-01-31.",
        "{name} 中有无法识别的日期。请写成 2024-01-31 的形式。",
    ),
    "bad_order": (
        "{name} has a date twice, or dates out of order. Sort the rows by date and keep each date once.",
        "{name} 中有重复或乱序的日期。请按日期排序，每个日期只留一行。",
    ),
    "bad_prices": (
        "{name} has prices of 0 or less. Leave such cells empty.",
        "{name} 中有小于等于 0 的价格。请将这些单元格留空。",
    ),
    "bad_bars": (
        "{name} has bars whose high lies below their low, or a price outside of both. Leave such cells empty.",
        "{name} 中有最高价低于最低价、或价格超出高低范围的 K 线。请将这些单元格留空。",
    ),
    "bad_short": (
        "{name} is too short: at least {least} bars are needed before the forecast, and some 150 are better.",
        "{name} 太短：预测起点之前至少需要 {least} 根 K 线，最好有 150 根左右。",
    ),
    "bad_flat": (
        "{name} never moves, so there is nothing to forecast. Choose another series.",
        "{name} 的价格从不变动，无可预测。请换一条序列。",
    ),
    "bad_frequency": (
        "{name} does not hold daily bars, and this model knows daily bars alone. Give one row per day.",
        "{name} 不是日线，而本模型只懂日线。请提供每天一行的数据。",
    ),
    "bad_as_of": (
        "“{given}” is no date. Write it as 2024-01-31, or leave it empty.",
        "“{given}”不是日期。请写成 2024-01-31，或留空。",
    ),
    "bad_before": (
        "{name} has too few bars up to {given}. Choose a later date, or leave it empty.",
        "{name} 在 {given} 之前的 K 线太少。请选择更晚的日期，或留空。",
    ),
    "bad_levels": (
        "“{given}” is no price. Write prices above 0, as 55, 60; at most {most} of them.",
        "“{given}”不是价格。请填写大于 0 的价格，例如 55, 60；最多 {most} 个。",
    ),
    "bad_symbol": (
        "No bars were found for “{given}”. Check the symbol as Yahoo Finance writes it, as AAPL or 600519.SS.",
        "找不到“{given}”的行情。请按 Yahoo Finance 的写法核对代码，例如 AAPL 或 600519.SS。",
    ),
    "bad_network": (
        "The source of prices did not answer. Try again in a minute, or upload a file.",
        "行情来源没有响应。请稍后再试，或上传文件。",
    ),
    "bad_other": (
        "{name} cannot be forecast. The reader says: {said}",
        "{name} 无法预测。读取程序的说明（英文）：{said}",
    ),
    "bad_value": (
        "{name} has several columns of numbers: {columns}. Write above which of them is to be forecast.",
        "{name} 有多列数字：{columns}。请在上方填写要预测的列。",
    ),
    "bad_id": (
        "{name} has every time more than once. Add a column series_id that names the series of each row.",
        "{name} 中每个时间出现多次。请加一列 series_id，标明每行所属的序列。",
    ),
    "bad_static": (
        "{name} has no column {column}, which this model reads of each series. Add it, with one value per series, or "
        "upload a table with a row per series.",
        "{name} 缺少列 {column}：模型需要每条序列的该属性。请加上，每条序列一个值；或上传一张表，每条序列一行。",
    ),
    "bad_table": (
        "The table of each series does not fit. The reader says: {said}",
        "每条序列的属性表不匹配。读取程序的说明（英文）：{said}",
    ),
    "bad_uneven": (
        "{name} has rows at uneven times. Write above a rule that makes them even, such as {rule}.",
        "{name} 各行的时间不均匀。请在上方填写使其等间隔的规则，例如 {rule}。",
    ),
    "bad_rule": (
        "That is no rule for these rows. Write sum, mean, last or nearest, with a step before it: 1d:sum, 1h:mean.",
        "该规则不适用于这些行。请填写 sum、mean、last 或 nearest，前面加上间隔：1d:sum、1h:mean。",
    ),
    "bad_known": (
        "{column} must be known {count} steps ahead. Add rows for the steps to come, with it and without a value.",
        "{column} 须提前 {count} 步已知。请补上未来各步的行：填入该列，数值留空。",
    ),
    "bad_horizon": (
        "This model knows {most} steps ahead. Ask for fewer.",
        "该模型最多向前预测 {most} 步。请减少步数。",
    ),
    "bad_ours": (
        "Something went wrong on our side, and has been noted. The page goes on: try again, or choose other prices.",
        "我们这边出了问题，已记录。页面仍可使用：请重试，或换一份行情。",
    ),
}


def say(language: str, key: str, *, plain: bool = False, **values: Any) -> str:
    """The text of that key, of a model of `plain` series its own if there is one; an unknown language is English.

    >>> say("zh", "go"), say("en", "source_sample")
    ('预测', 'Sample')
    """
    own = f"series_{key}"
    return WORDS[own if plain and own in WORDS else key][PLACES.get(language, 0)].format(**values)


def language_of(header: str) -> str:
    """The first of ours in a browser's `Accept-Language`.

    >>> language_of("zh-CN,zh;q=0.9,en;q=0.8"), language_of("de-DE,de;q=0.9")
    ('zh', 'en')
    """
    asked = [part.strip().lower()[:2] for part in header.split(",")]
    return next((one for one in asked if one in LANGUAGES), "en")
