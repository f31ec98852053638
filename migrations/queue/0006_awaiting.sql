-- When the call was made that was accepted and whose result the delivery waits for, `due` being the end of that wait;
-- NULL when it waits for its time, or is held.
ALTER TABLE delivery ADD COLUMN awaiting_since INTEGER CHECK (awaiting_since IS NULL OR held = 0);

-- How many of a function's parked deliveries wait for their result.
ALTER TABLE function ADD COLUMN awaiting INTEGER NOT NULL DEFAULT 0;

DROP TRIGGER delivery_parked;
DROP TRIGGER delivery_gone;
DROP TRIGGER delivery_changed;

CREATE TRIGGER delivery_parked AFTER INSERT ON delivery BEGIN
    UPDATE function SET parked = parked + 1, held = held + NEW.held,
        awaiting = awaiting + (NEW.awaiting_since IS NOT NULL), bytes = bytes + NEW.weight
    WHERE id = NEW.function;
END;

CREATE TRIGGER delivery_gone AFTER DELETE ON delivery BEGIN
    UPDATE function SET parked = parked - 1, held = held - OLD.held,
        awaiting = awaiting - (OLD.awaiting_since IS NOT NULL), bytes = bytes - OLD.weight
    WHERE id = OLD.function;
END;

CREATE TRIGGER delivery_changed AFTER UPDATE OF held, awaiting_since, weight ON delivery
WHEN NEW.held <> OLD.held OR NEW.weight <> OLD.weight
    OR (NEW.awaiting_since IS NULL) <> (OLD.awaiting_since IS NULL) BEGIN
    UPDATE function SET held = held + NEW.held - OLD.held,
        awaiting = awaiting + (NEW.awaiting_since IS NOT NULL) - (OLD.awaiting_since IS NOT NULL),
        bytes = bytes + NEW.weight - OLD.weight
    WHERE id = NEW.function;
END;
