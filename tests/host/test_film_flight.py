"""Write Film inside a segment loop and after it, in the real server."""

from __future__ import annotations

from io import BytesIO

import av
import numpy as np

from real_host.client import made_files
from real_host.flights import film, flight, node, of_type


def test_a_film_written_in_the_loop_is_the_film_that_decode_film_gives(client):
    prompt = flight("stand_in_long_flight", LoadImage={"image": "mirage_room.jpg"})
    vae = [of_type(prompt, "VAELoader"), 0]
    settings = {"vae": vae, "filename_prefix": "films/flight", "format": "mp4", "codec": "auto", "crf": 16}
    prompt["grow"] = node("MirageWriteFilm", memory=[of_type(prompt, "MirageWriteMemory"), 0], **settings)
    prompt["whole"] = node("MirageWriteFilm", memory=[of_type(prompt, "MirageLoopEnd"), 0], **settings)
    report = prompt[of_type(prompt, "MirageFilmReport")]
    report["inputs"]["video"] = ["whole", 1]
    for one in prompt.values():
        one.setdefault("_meta", {"title": one["class_type"]})

    finished = client.run(prompt)
    said = finished.outputs["whole"]["text"][0]
    assert said == "films/flight_00001.mp4: 65 frames; 3 of 3 parts were there", "the loop has written all of it"
    (listed,) = made_files(finished.outputs["whole"])
    with av.open(BytesIO(client.fetch(listed))) as container:
        assert "prompt" in container.metadata, "the workflow is in the file, as in those of Save Video"
        written = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(written) == 65
    assert all(np.array_equal(one, other) for one, other in zip(written, film(client, prompt, finished), strict=True))
