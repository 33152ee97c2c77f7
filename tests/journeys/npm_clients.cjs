// Walks a DICOMweb server with the clients that web viewers are made of, and says as JSON what it found: for each
// series its first instance, how the metadata reads, what the Part 10 file reads, and how long the first frame is.
const modules = process.argv[3] + "/";
global.XMLHttpRequest = require(modules + "xhr2");
const { api } = require(modules + "dicomweb-client");
const { data } = require(modules + "dcmjs");

const { DicomMessage, DicomMetaDictionary } = data;

function read(buffer) {
  try {
    return DicomMetaDictionary.naturalizeDataset(DicomMessage.readFile(buffer).dict).SOPInstanceUID;
  } catch (error) {
    return String(error.message);
  }
}

async function walk(client) {
  const found = [];
  for (const study of await client.searchForStudies()) {
    const studyInstanceUID = study["0020000D"].Value[0];
    for (const series of await client.searchForSeries({ studyInstanceUID })) {
      const seriesInstanceUID = series["0020000E"].Value[0];
      const metadata = await client.retrieveSeriesMetadata({ studyInstanceUID, seriesInstanceUID });
      const said = DicomMetaDictionary.naturalizeDataset(metadata[0]);
      const place = { studyInstanceUID, seriesInstanceUID, sopInstanceUID: said.SOPInstanceUID };
      const instance = await client.retrieveInstance(place);
      const frames = said.Rows ? await client.retrieveInstanceFrames({ ...place, frameNumbers: [1] }) : [];
      found.push({
        series: seriesInstanceUID,
        instance: said.SOPInstanceUID,
        instances: metadata.length,
        modality: said.Modality,
        bytes: instance.byteLength,
        file: read(instance),
        frame: frames.length ? frames[0].byteLength : 0,
      });
    }
  }
  return found;
}

walk(new api.DICOMwebClient({ url: process.argv[2] })).then(
  (found) => console.log(JSON.stringify(found)),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
