// Finds what overlaps or leaves the screen on a page.
import assert from 'node:assert/strict';
import path from 'node:path';
import { web } from './support.js';

/** Texts, inputs and buttons that cover each other or leave the screen. */
export async function faults(page) {
  return page.evaluate(() => {
    const boxes = [];
    const ancestor = (element, has) => {
      for (let found = element; found; found = found.parentElement) if (has(getComputedStyle(found))) return found;
      return null;
    };
    /** The part of each rectangle that is visible. Texts only for screen readers have a pixel. */
    const add = (name, element, rectangles, source = element) => {
      const clip = ancestor(element, ({ overflowX }) => overflowX !== 'visible')?.getBoundingClientRect();
      // A bar that stays in view covers what scrolls below it.
      const layer = ancestor(element, ({ position }) => position === 'sticky');
      for (const each of rectangles) {
        const [left, right] = clip ? [Math.max(each.left, clip.left), Math.min(each.right, clip.right)] : [each.left, each.right];
        const [top, bottom] = clip ? [Math.max(each.top, clip.top), Math.min(each.bottom, clip.bottom)] : [each.top, each.bottom];
        if (right - left > 1 && bottom - top > 1) boxes.push({ name, source, layer, left, right, top, bottom });
      }
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const { currentNode } = texts;
      if (!currentNode.data.trim() || !currentNode.parentElement.checkVisibility()) continue;
      const range = document.createRange();
      range.selectNodeContents(currentNode);
      // A button contains its text.
      if (!currentNode.parentElement.closest('button')) add(currentNode.data.trim(), currentNode.parentElement, range.getClientRects(), currentNode);
    }
    for (const control of document.querySelectorAll('input, button, canvas')) {
      // An input may contain a button, for example to clear it. The input of a switch is transparent, and lies on its label and its track.
      if (control.checkVisibility({ opacityProperty: true }) && !control.closest('[data-position=right]')) add(control.id || control.tagName, control.parentElement, control.getClientRects(), control);
    }
    const found = boxes.filter(({ left, right }) => left < 0 || right > innerWidth).map(({ name }) => `${name} leaves the screen`);
    // Lines of text have a little room above and below their letters.
    const overlap = (a, b) =>
      Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4;
    // A line that ends in an ellipsis has two rectangles.
    boxes.forEach((a, index) => {
      for (const b of boxes.slice(index + 1)) if (a.source !== b.source && a.layer === b.layer && overlap(a, b)) found.push(`${a.name} and ${b.name} overlap`);
    });
    if (document.documentElement.scrollWidth > innerWidth) found.push('the page is wider than the screen');
    for (const box of document.querySelectorAll('section, .scroll')) {
      if (box.scrollWidth > box.clientWidth) found.push(`${box.className || box.ariaLabel} is wider than its box`);
    }
    return { found, boxes: boxes.length };
  });
}

export async function isTidy(page, where) {
  const { found, boxes } = await faults(page);
  assert.ok(boxes >= 8, `${where}: ${boxes} boxes`);
  assert.deepEqual(found, [], where);
  await page.screenshot({ path: path.join(web, `artifacts/${where}.png`), fullPage: true });
}
