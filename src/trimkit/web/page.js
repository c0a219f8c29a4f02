// The permalink: settings are kept in the query of the address. trimkit.web.links reads them.
window.trimkitLink = function (changes) {
  const url = new URL(window.location.href);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") url.searchParams.delete(name);
    else url.searchParams.set(name, value);
  }
  window.history.replaceState(null, "", url);
  return url.href;
};
