"""Rules for the data: which batches a loop sees, in which order, and on which data it is evaluated."""

from loop_doctor.records import Record
from loop_doctor.rules.base import FEW, Diagnosis, rule

MANY = 3  # times that the same batch came


@rule("same-batch-again")
def same_batch_again(record: Record) -> Diagnosis | None:
    """A loop takes the first batch of a new iterator each time, in a fixed order, and never a second one."""
    for site in record.data.sites:
        if site.num_batches < FEW or site.num_passes < MANY or not site.same:
            continue
        facts = {"batches": site.num_batches}
        if site.num_first_trained >= MANY and not site.source.num_later_trained:
            return Diagnosis("same-batch-again", site.num_first_trained, site.location, facts, "train")
        # With the same weights, the same batch gives the same result; a batch that is shown once an epoch is all right.
        if site.num_repeats >= MANY and not site.num_trained and not site.source.num_later and record.num_backwards:
            return Diagnosis("same-batch-again", site.num_evaluated, site.location, facts, "valid")
    return None


@rule("not-shuffled")
def not_shuffled(record: Record) -> Diagnosis | None:
    """A loop trains on data that is sorted by class, in the same order in each epoch."""
    for site in record.data.sites:
        labels = site.labels
        if (
            site.num_batches >= FEW
            and site.num_trained > site.num_batches
            and site.num_steps > site.num_passes >= FEW
            and labels.sorted
            and labels.large() >= FEW
        ):
            facts = {"classes": len(labels.counts), "rows": labels.counts.total(), "batch_size": site.batch_size}
            return Diagnosis("not-shuffled", site.num_passes, site.location, facts)
    return None


@rule("evaluated-on-training-data")
def evaluated_on_training_data(record: Record) -> Diagnosis | None:
    """The only evaluation runs over the data that trains, and a loader made for it is never used."""
    if record.data.num_sources_only_evaluated:
        return None
    for site in record.data.sites:
        if site.unused and site.source.num_trained and not site.num_trained and site.num_passes >= FEW:
            facts = {"batches": site.num_evaluated, "unused": site.unused}
            if site.num_evaluated >= FEW * FEW:
                return Diagnosis("evaluated-on-training-data", site.num_passes, site.location, facts)
    return None
