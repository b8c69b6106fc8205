"""What Label Studio posts, with the fields that its reference of the protocol lists."""

NUMBER_CONFIG = """<View>
  <Header value="How large is it?"/>
  <Text name="row" value="$note"/>
  <Number name="answer" toName="row" required="true"/>
</View><!-- {"data": {"note": "a"}} -->"""

IMAGE_CONFIG = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <Choices name="kind" toName="image" choice="single-radio" showInLine="true">
    <Choice value="left"/><Choice value="right"/>
  </Choices>
</View>"""

PROJECT = {
    "title": "New Project #2",
    "description": "",
    "expert_instruction": "",
    "show_instruction": False,
    "enable_empty_annotation": True,
    "token": "0123456789abcdef",
    "result_count": 0,
    "maximum_annotations": 1,
    "min_annotations_to_start_training": 10,
    "control_weights": {"answer": {"overall": 1.0, "type": "Number", "labels": {}}},
    "model_version": "",
    "data_types": {},
    "is_draft": False,
    "created_at": "2021-08-17T13:49:34.326416Z",
    "updated_at": "2021-08-17T13:52:09.334425Z",
    "sampling": "Uncertainty sampling",
    "organization": 1,
    "created_by": 1,
}
TASK = {
    "meta": {},
    "created_at": "2021-08-17T13:51:02.590839Z",
    "updated_at": "2021-08-17T13:51:02.590873Z",
    "is_labeled": False,
    "overlap": 1,
    "project": 2,
    "file_upload": 46,
}


def result(value):
    """A region of an annotation."""
    if isinstance(value, str):
        said = {"value": {"choices": [value]}, "from_name": "kind", "to_name": "image", "type": "choices"}
    else:
        said = {"value": {"number": value}, "from_name": "answer", "to_name": "row", "type": "number"}
    return [{"id": "WArqkkifYE", "origin": "manual", **said}]


def annotation(number, task, value, cancelled=False):
    """An annotation as events and exports hold it."""
    return {
        "id": number,
        "result": [] if value is None else result(value),
        "was_cancelled": cancelled,
        "ground_truth": False,
        "created_at": "2021-08-17T13:52:48.536303Z",
        "updated_at": "2021-08-17T13:52:48.536370Z",
        "lead_time": 37.13,
        "prediction": {},
        "result_count": 0,
        "task": task,
        "completed_by": 1,
    }


def event(action, config, **parts):
    """An event of project 2."""
    return {"action": action, "project": {"id": 2, "label_config": config, **PROJECT}, **parts}


def created(config, number, task, value, data=None, action="ANNOTATION_CREATED", **more):
    """An annotation was made; newer versions send the task with it."""
    shown = {} if data is None else {"task": {"id": task, "data": data, **TASK}}
    return event(action, config, annotation=annotation(number, task, value, **more), **shown)


def asked(config, *data):
    """A request for predictions."""
    return {
        "tasks": [{"id": 100 + index, "data": each, **TASK} for index, each in enumerate(data)],
        "model_version": "tiny@2+0",
        "project": "2.1629208174",
        "label_config": config,
        "params": {"login": None, "password": None, "context": None},
    }


def setup(config):
    """A project is being connected."""
    return {
        "project": "2.1629208174",
        "schema": config,
        "hostname": "http://localhost:8080",
        "access_token": "abc",
        "extra_params": None,
    }
