// The pages in a real browser. Arguments: the folder with node_modules, where pictures go, and the
// addresses of four servers: `mixed` (targets in all states, names with markup), `empty` (no target),
// `many` (200 targets), `broken` (a broken file beside a good target).
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createRequire } from 'node:module';

const [modules, pictures, mixed, empty, many, broken] = process.argv.slice(2);
const require = createRequire(path.join(modules, 'from-here.js'));
const { chromium } = require('playwright-core');
const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const MARKUP = '<script>alert(1)<b>&"\'';

const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'blat-browser-'));
const flags = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: flags,
});
const page = browser.pages()[0] ?? await browser.newPage();
const outside = [], told = [];
let origin = mixed;
page.on('request', (request) => {
  if (!request.url().startsWith(origin)) outside.push(request.url());
});
page.on('console', (message) => { if (message.type() === 'error') told.push(message.text()); });
page.on('pageerror', (error) => told.push(String(error)));
page.on('dialog', (dialog) => { told.push(`a dialog: ${dialog.message()}`); dialog.dismiss(); });

let looked = 0;

async function open(address) {
  outside.length = 0;
  origin = new URL(address).origin;
  const response = await page.goto(address, { waitUntil: 'load' });
  assert.deepEqual(outside, [], `${address} asks elsewhere`);
  assert.equal(await page.locator('script').count(), 0, `${address} has scripts`);
  return response;
}

/** What axe finds wrong with the page, in light and dark, wide and narrow. */
async function accessible(name) {
  for (const colorScheme of ['light', 'dark']) {
    for (const [size, width, height] of [['desk', 1280, 900], ['phone', 375, 740]]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height });
      const found = await page.evaluate(`${axe}; axe.run(document)`);
      const wrong = found.violations.map((one) => `${one.id}: ${one.help}: ${one.nodes.map((node) => node.html).join(' | ')}`);
      assert.deepEqual(wrong, [], `${name}, ${colorScheme}, ${size}`);
      assert.ok(found.passes.length > 10, `axe looked at nothing on ${name}`);
      const over = await page.evaluate('document.documentElement.scrollWidth - window.innerWidth');
      assert.ok(over <= 0, `${name} on a ${size} is ${over} px too wide`);
      looked += 1;
      await page.screenshot({ path: path.join(pictures, `${name}-${colorScheme}-${size}.png`), fullPage: true });
    }
  }
  await page.setViewportSize({ width: 1280, height: 900 });
}

async function says(...texts) {
  const text = await page.locator('main').innerText();
  for (const one of texts) assert.ok(text.includes(one), `${page.url()} does not say ${JSON.stringify(one)}:\n${text}`);
  return text;
}

async function row(name) {
  return page.locator('tbody tr', { has: page.locator('th', { hasText: new RegExp(`^${name}$`) }) }).innerText();
}

// All targets at a glance.
await open(mixed);
assert.equal(await page.title(), 'Targets - blat');
for (const [name, ...words] of [['up', 'ok', 'up'], ['down', 'warning', 'down'], ['nodb', 'warning', 'up'], ['key', 'critical', 'down'], ['gone', 'critical', 'no agent'], ['shrunk', 'critical', 'up']]) {
  const text = await row(name);
  for (const word of words) assert.ok(text.includes(word), `the row of ${name} lacks ${word}: ${text}`);
}
await says('not connected for', 'No route to host', 'the database cannot be reached', 'the agent does not run', 'sync 3/10');
await accessible('targets');

// One target, and the way there by keyboard alone.
await open(mixed);
await page.keyboard.press('Tab');
assert.equal(await page.evaluate('document.activeElement.className'), 'skip');
for (let n = 0; n < 30 && !(await page.evaluate('document.activeElement.getAttribute("href")') ?? '').startsWith('/target/'); n += 1) await page.keyboard.press('Tab');
await page.keyboard.press('Enter');
await page.waitForURL(/\/target\//);
await open(`${mixed}target/up`);
await says('Last good sync', '432 members', 'Tram/1.0', 'Nothing is known to be missing');
assert.equal(await page.locator('figure svg').count(), 2);
assert.ok(await page.locator('svg path.line').getAttribute('d'), 'the plot of the lag is drawn');
assert.ok(await page.locator('svg rect.bar').count() > 3, 'the plot of what was sent is drawn');
await says('Last 5m', 'in all');
await accessible('target');

// Names with markup in them are names.
await open(`${mixed}target/markup`);
await says(MARKUP, 'is still writable');
assert.equal(await page.locator('main b').count(), 0);
await accessible('markup');
await page.locator('main a', { hasText: MARKUP }).first().click();
await says(MARKUP, 'on markup');
assert.equal(await page.locator('input[name=name]').inputValue(), MARKUP);
await accessible('package-markup');

// A package, found by the form.
await open(`${mixed}package`);
await page.getByLabel('Package').fill('core');
await page.keyboard.press('Enter');
await page.waitForURL(/name=core/);
await says('1.0 on up: it is there, as it should be', '2.0 on up: it is missing', 'the release Tram/1.0', 'stamp 5');
await accessible('package');
await open(`${mixed}package?name=nowhere`);
await says('No target asks for it');
await open(`${mixed}package?name=..%2Fx`);
await says('cannot be a package');

// Failure states.
await open(`${mixed}target/down`);
await says('not connected for', 'No route to host');
await accessible('target-down');
await open(`${mixed}target/nodb`);
await says('the database cannot be reached', 'warning');
await accessible('database-down');
await open(`${mixed}target/shrunk`);
await says('nothing in excess was marked or deleted', '3 package-versions, 9 before', 'a person holds all deletion back: an audit');
await accessible('set-shrunken');
await open(`${mixed}package?name=core`);
await says('2.0 on shrunk', 'it has a mark: marked, deleted from 2027-02-01T00:00:00Z on');
await open(empty);
await says('There is no target yet');
await accessible('no-target');
await open(broken);
await says('the configuration is broken: /etc/blat/targets/bad.toml:1:1', 'good');
await accessible('broken-config');
assert.deepEqual(told, [], 'the browser complained');
// A page that is not there is told of there, too.
assert.equal((await page.goto(`${mixed}target/nobody`)).status(), 404);
await says('There is no such target');
assert.equal((await page.goto(`${mixed}%3Cscript%3E`)).status(), 404);
told.length = 0;

// Many.
const begin = Date.now();
await open(many);
console.log(`200 targets: loaded after ${Date.now() - begin} ms`);
assert.equal(await page.locator('tbody tr').count(), 200);
await accessible('many');

// Without scripts the numbers are all there: the answer's text alone has them.
const text = await (await fetch(`${mixed}target/up`)).text();
assert.ok(text.includes('432 members') && !/<script/i.test(text));
const head = (await fetch(mixed)).headers.get('content-security-policy');
assert.ok(head.includes("default-src 'none'"), head);

assert.deepEqual(told, [], 'the browser complained');
await browser.close();
fs.rmSync(profile, { recursive: true, force: true });
console.log(`axe found nothing on ${looked} views`);
