// The texts that can be seen and whose contrast with what is behind them is too low.
() => {
  const channels = (text) => text.match(/[\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((value, n) => value * a + below[n] * (1 - a));
  const light = (colour) =>
    colour.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4))
      .reduce((sum, value, n) => sum + value * [0.2126, 0.7152, 0.0722][n], 0);
  const ratio = (one, other) => {
    const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const behind = (element) => {
    const chain = [];
    for (let one = element; one; one = one.parentElement) chain.push(channels(getComputedStyle(one).backgroundColor));
    return chain.reverse().reduce((below, colour) => over(colour, below), [255, 255, 255]);
  };
  const poor = [];
  let texts = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !element.checkVisibility() || element.closest("[aria-hidden=true], .quiet, script")) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
    const least = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    const found = ratio(over(channels(style.color), behind(element)), behind(element));
    texts++;
    if (found < least) poor.push([element.className || element.tagName, walk.currentNode.textContent.trim().slice(0, 30), found.toFixed(2)]);
  }
  for (const field of document.querySelectorAll("input")) {
    if (!field.checkVisibility()) continue;
    const edge = ratio(over(channels(getComputedStyle(field).borderTopColor), behind(field)), behind(field.parentElement));
    const hint = ratio(channels(getComputedStyle(field, "::placeholder").color).slice(0, 3), behind(field));
    if (edge < 3 || hint < 4.5) poor.push([field.id, "field", edge.toFixed(2), hint.toFixed(2)]);
  }
  return { texts, poor, background: getComputedStyle(document.body).backgroundColor };
}
