/** Texts of the interface, from the pack's locales. */

/** @type {Promise<(key: string, values?: object) => string> | undefined} */
let loading;

/**
 * The page's texts, loaded once.
 *
 * @param {{app: object, api: object}} bridge
 * @returns {Promise<(key: string, values?: Record<string, unknown>) => string>}
 */
export function loadTexts(bridge) {
  loading ??= load(bridge);
  return loading;
}

async function load({ app, api }) {
  const response = await api.fetchApi("/i18n");
  const locales = response.ok ? await response.json() : {};
  const wanted = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
  return makeText(locales[wanted]?.mirage, locales[wanted.split("-")[0]]?.mirage, locales.en?.mirage);
}

/** A text by its key from the first locale that has it, with `{name}` replaced by values. */
function makeText(...locales) {
  return (key, values = {}) => {
    const found = locales.map((texts) => texts?.[key]).find((item) => typeof item === "string");
    return (found ?? key).replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
  };
}
