"""What was seen in one block: counters, first locations and first numbers. It does not grow with the run."""

from collections import Counter
from dataclasses import dataclass, field

from loop_doctor.call_sites import Location
from loop_doctor.growth import GrowthDetector, LiveGraphs
from loop_doctor.ledger import Ledger, Series
from loop_doctor.parameters import Parameter
from loop_doctor.records.carried import CarriedRecord
from loop_doctor.records.checkpoints import CheckpointRecord
from loop_doctor.records.data import DataRecord
from loop_doctor.records.endings import Ending
from loop_doctor.records.inputs import InputRecord
from loop_doctor.records.models import ModelRecord
from loop_doctor.records.optimizers import OptimizerRecord, PendingBackward
from loop_doctor.records.parts import Tally
from loop_doctor.records.scalers import ScalingRecord
from loop_doctor.records.schedules import PlateauRecord, ScheduleRecord, Schedules
from loop_doctor.records.writers import StepLog, WriterRecord

__all__ = [
    "CarriedRecord",
    "Ending",
    "ModelRecord",
    "OptimizerRecord",
    "PendingBackward",
    "PlateauRecord",
    "Record",
    "ScheduleRecord",
    "StepLog",
    "Tally",
    "WriterRecord",
]


@dataclass(eq=False)
class Record:
    """Everything that was seen in one block."""

    ledger: Ledger = field(default_factory=Ledger)
    optimizers: list[OptimizerRecord] = field(default_factory=list)
    models: list[ModelRecord] = field(default_factory=list)
    writers: list[WriterRecord] = field(default_factory=list)
    data: DataRecord = field(default_factory=DataRecord)
    checkpoints: CheckpointRecord = field(default_factory=CheckpointRecord)
    step_logs: list[StepLog] = field(default_factory=list)
    losses: dict[object, Series] = field(default_factory=dict)  # the series that backward calls started from
    num_backwards: int = 0
    num_gradients: int = 0
    num_losses_read: int = 0
    num_steps: int = 0
    num_scaler_steps: int = 0
    num_manual_updates: int = 0
    num_parameters_reached: int = 0
    backward_location: Location | None = None
    unchanged: list[tuple[str, int]] = field(default_factory=list)  # received gradients, never changed
    manual_stale: Tally = field(default_factory=Tally)
    losses_kept: LiveGraphs = field(default_factory=LiveGraphs)
    outputs_kept: LiveGraphs = field(default_factory=LiveGraphs)
    passed_again: GrowthDetector = field(default_factory=GrowthDetector)  # outputs a backward call met a second time
    strays: list[Parameter] = field(default_factory=list)  # received gradients, in no model that was called, unchanged
    softmax: Tally = field(default_factory=Tally)
    inputs: InputRecord = field(default_factory=InputRecord)
    scalar_images: Tally = field(default_factory=Tally)
    scaling: ScalingRecord = field(default_factory=ScalingRecord)
    recreated: Tally = field(
        default_factory=Tally
    )  # optimizers that took over the weights of the last one of their line
    early_schedulers: Tally = field(default_factory=Tally)
    num_scheduler_steps: int = 0
    schedules: Schedules = field(default_factory=Schedules)
    waits: Counter[Location | None] = field(default_factory=Counter)
    num_waits: int = 0
    other_threads: bool = False
    interrupted: bool = False
    carried: CarriedRecord = field(default_factory=CarriedRecord)
    ending: Ending | None = None  # the error that the block ended with
